"""Kinds of numbers on the command line."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import click


class Count(click.ParamType):
    """A positive whole number, also written 1e6 or 1_000_000."""

    name = "count"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = Decimal(str(value))
            if number == number.to_integral_value() and 1 <= number <= 10**12:
                return int(number)
        except InvalidOperation:
            pass
        self.fail(f"{value!r} is not a whole number from 1 to 1e12, such as 1e6", param, ctx)


class Shard(click.ParamType):
    """`i/N` with i from 0 to N-1."""

    name = "i/N"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        index, _, count = str(value).partition("/")
        if index.isdecimal() and count.isdecimal() and int(index) < int(count):
            return int(index), int(count)
        self.fail(f"{value!r} is not a shard i/N with i from 0 to N-1, such as 0/4", param, ctx)
