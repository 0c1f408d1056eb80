"""The studio without a browser: what it makes is what the commands make, and who must not drive it cannot."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import photo
from PIL import Image

pytest.importorskip("starlette", reason="the studio's extra is not installed: pip install 'latentopt[ui]'")
pytest.importorskip("uvicorn", reason="the studio's extra is not installed: pip install 'latentopt[ui]'")
pytest.importorskip("wsproto", reason="the studio's extra is not installed: pip install 'latentopt[ui]'")

from studio_client import Refused, Socket, serving, wait_for

from latentopt.checkpoints.networks import load_generator
from latentopt.editing.direction import Direction
from latentopt.editing.files import save_directions
from latentopt.errors import UsageError
from latentopt.files.storage import load_tensors
from latentopt.pictures.images import read_png
from latentopt.studio.messages import Draw, read_message
from latentopt.studio.photos import MOST_BYTES, received
from latentopt.studio.places import inside
from latentopt.studio.worker import MOST_JOBS, Full, Worker


@pytest.fixture(scope="module")
def workplace(prepared, tmp_path_factory) -> Path:
    """A working folder with the tiny generator and one direction of it."""
    folder = tmp_path_factory.mktemp("studio")
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    generator = load_generator(folder / "net" / "tiny.safetensors")
    vector = torch.randn(generator.w_dim, generator=torch.Generator().manual_seed(0))
    (folder / "directions").mkdir()
    save_directions(
        folder / "directions" / "tiny.safetensors",
        [Direction("smile", "w", vector, generator.fingerprint, layers=(0, 1, 2), generator=generator.name)],
    )
    return folder


@pytest.fixture(scope="module")
def studio(workplace):
    """One that runs for all tests of this file, in that folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        generator = load_generator("net/tiny.safetensors")
        with serving(generator, workplace / "out") as found:
            yield found


@pytest.fixture
def page(studio):
    socket = Socket(studio)
    socket.hello = socket.told("hello")["about"]
    socket.lists = socket.told("lists")
    socket.told("ready")
    yield socket
    socket.sock.close()


def upload(studio, path: Path, name: str | None = None) -> str:
    status, _, body = studio.http("POST", f"pictures/{name or path.name}", path.read_bytes())
    assert status == 200, body
    return json.loads(body)["picture"]


QUICK = {"steps": 3, "terms": "l2=1"}  # the bundled perceptual network is for the bundled generator alone
INVERT = {"kind": "invert", "recipe": "i2s", **QUICK}


@pytest.fixture(scope="module")
def base(studio, workplace) -> str:
    """An inversion that was made by a page."""
    socket = Socket(studio)
    job = socket.job({**INVERT, "picture": upload(studio, workplace / "photos" / "a.png")})
    socket.close()
    assert job["status"] == "done", job["note"]
    return job["made"]["base"]


# ---- the same as the command line


def same_from(command: str, files: list[Path], latentopt) -> None:
    """A command line writes the very files that are there: pictures bit by bit, latents number by number."""

    def contents() -> list[list[torch.Tensor]]:
        tables = [[read_png(f)] if f.suffix == ".png" else list(load_tensors(f)[0].values()) for f in files]
        for file in files:
            file.unlink()
        return tables

    before = contents()
    code, _, err = latentopt(*shlex.split(command)[1:])
    assert code == 0, err
    for table, other in zip(before, contents(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(table, other, strict=True))


def test_a_run_of_the_studio_is_a_run_of_the_command_line(studio, page, base, workplace, monkeypatch, latentopt):
    """The command that the page shows finds that all is done already: it has the very same key."""
    monkeypatch.chdir(workplace)
    result = next(r for r in page.lists["results"] if r["base"] == base)
    line = result["commands"][0]
    assert "--recipe i2s --steps 3 --terms l2=1 " in line
    code, out, err = latentopt(*shlex.split(line)[1:])
    assert (code, "done already" in err) == (0, True), out + err
    code, out, err = latentopt("edit", studio.root / base, "--do", "smile=1", "--to", workplace / "edited")
    assert code == 0, err


def test_a_run_of_the_command_line_opens_in_the_studio(studio, workplace, monkeypatch, latentopt):
    monkeypatch.chdir(workplace)
    code, _, err = latentopt("invert", "photos/b.png", "--network", "net/tiny.safetensors", "--recipe", "i2s",
                             "--steps", "2", "--terms", "l2=1", "--outdir", "out/by-hand")  # fmt: skip
    assert code == 0, err
    socket = Socket(studio)
    result = next(r for r in socket.told("lists")["results"] if r["base"] == "by-hand/b")
    assert "photos/b.png" in result["commands"][0]
    socket.send({"kind": "draw", "id": 5, "look": {"base": "by-hand/b"}})
    number, picture = socket.drawing()
    drawn = read_png(studio.root / "by-hand" / "b" / "proj.png")
    with Image.open(io.BytesIO(picture)) as shown:
        assert (number, shown.size) == (5, (16, 16))
        shown.save(workplace / "shown.png")
    assert torch.equal(read_png(workplace / "shown.png"), drawn)
    socket.close()


def test_what_is_kept_is_what_the_command_line_writes(studio, page, base, workplace, monkeypatch, latentopt):
    monkeypatch.chdir(workplace)
    look = {"base": base, "edits": [{"name": "smile", "strength": 1.5, "first": 1, "last": 2}]}
    job = page.job({"kind": "keep", "look": look})
    assert {Path(name).suffix for name in job["made"]["files"]} == {".png", ".safetensors"}
    same_from(job["made"]["commands"][0], [studio.root / name for name in job["made"]["files"]], latentopt)
    job = page.job({"kind": "keep", "look": look})
    again = page.job({"kind": "keep", "look": {"base": job["made"]["base"]}})
    assert (again["made"]["files"], again["made"]["commands"]) == (job["made"]["files"], [])


def test_mixing_and_what_the_command_line_mixes(studio, page, base, workplace, monkeypatch, latentopt):
    monkeypatch.chdir(workplace)
    other = page.job({**INVERT, "picture": upload(studio, workplace / "photos" / "c.png")})["made"]["base"]
    job = page.job({"kind": "keep", "look": {"base": base, "mix": {"other": other, "row": 2}}})
    same_from(job["made"]["commands"][0], [studio.root / name for name in job["made"]["files"]], latentopt)


def test_tuning_and_its_command(studio, page, base, workplace, monkeypatch, latentopt):
    monkeypatch.chdir(workplace)
    job = page.job({"kind": "tune", "result": base, "method": "weights", **QUICK})
    assert job["status"] == "done", job["note"]
    assert (studio.root / job["made"]["base"] / "delta.safetensors").is_file()
    socket = Socket(studio)
    result = next(r for r in socket.told("lists")["results"] if r["base"] == job["made"]["base"])
    socket.close()
    assert "tune" in result["commands"][0] and "--method weights --steps 3" in result["commands"][0]
    code, _, err = latentopt(*shlex.split(result["commands"][0])[1:])
    assert (code, "done already" in err) == (0, True), err


def test_restoring_and_its_command(studio, page, workplace, monkeypatch, latentopt):
    monkeypatch.chdir(workplace)
    photo(workplace / "small" / "s.png", 5)
    with Image.open(workplace / "small" / "s.png") as opened:
        opened.resize((8, 8)).save(workplace / "small" / "s.png")
    picture = upload(studio, workplace / "small" / "s.png")
    asked = {"picture": picture, "operator": "down:2", "recipe": "i2s", **QUICK}
    job = page.job({"kind": "restore", **asked})
    assert job["status"] == "done", job["note"]
    socket = Socket(studio)
    result = next(r for r in socket.told("lists")["results"] if r["base"] == job["made"]["base"])
    socket.close()
    assert result["commands"][0].startswith("latentopt restore ")
    code, _, err = latentopt(*shlex.split(result["commands"][0])[1:])
    assert (code, "done already" in err) == (0, True), err


def test_a_film_and_its_command(studio, page, base, workplace, monkeypatch, latentopt):
    monkeypatch.chdir(workplace)
    look = {"base": base, "edits": [{"name": "smile", "strength": 1.0}]}
    made = page.job({"kind": "film", "look": look})["made"]
    film = studio.root / made["files"][0]
    before = film.read_bytes()
    film.unlink()
    code, _, err = latentopt(*shlex.split(made["commands"][0])[1:])
    assert (code, film.read_bytes() == before) == (0, True), err


def test_a_drag_and_its_command(studio, page, base, workplace, monkeypatch, latentopt):
    monkeypatch.chdir(workplace)
    asked = {"look": {"base": base}, "points": [[4, 4, 6, 5]], "steps": 2}
    made = page.job({"kind": "drag", **asked})["made"]
    same_from(made["commands"][0], [studio.root / name for name in made["files"]], latentopt)


def test_a_crop(studio, page, workplace):
    picture = upload(studio, workplace / "photos" / "a.png")
    key = page.job({"kind": "crop", "picture": picture, "box": [0, 0, 0.5, 0.5]})["made"]["picture"]
    assert Image.open(studio.root / key).size == (10, 10)
    assert page.job({"kind": "crop", "picture": picture, "box": [0.5, 0, 0.5, 1]})["status"] == "failed"


def test_a_stopped_job_goes_on_where_it_was(studio, page, workplace):
    picture = upload(studio, workplace / "photos" / "b.png", "long.png")
    page.send({**INVERT, "steps": 4000, "picture": picture, "ticket": 3})
    number = page.told("accepted")["job"]
    page.until(lambda m: isinstance(m, dict) and m["kind"] == "progress" and m["step"] > 20)
    other = Socket(studio)  # a second page sees it too, with the curve so far
    seen = other.until(lambda m: isinstance(m, dict) and m["kind"] == "job" and m["job"]["id"] == number)["job"]
    assert seen["status"] == "running" and len(seen["curve"]) > 10
    page.send({"kind": "stop", "job": number})
    for socket in (page, other):
        socket.until(lambda m: isinstance(m, dict) and m["kind"] == "job" and m["job"]["status"] == "stopped")
    reached = wait_for(lambda: list((studio.root / "i2s-4000-steps-l2=1" / ".resume").glob("*.safetensors")))
    assert len(reached) == 1
    page.send({"kind": "again", "job": number})
    step = page.until(lambda m: isinstance(m, dict) and m["kind"] == "progress")["step"]
    assert step > 20
    page.send({"kind": "stop", "job": number})
    page.until(lambda m: isinstance(m, dict) and m["kind"] == "job" and m["job"]["status"] == "stopped")
    other.close()


# ---- the worker


def test_the_newest_drawing_of_a_slot_is_the_only_one_that_waits():
    worker, begun, drawn = Worker(), threading.Event(), []
    gate = threading.Event()
    worker.submit(lambda: (begun.set(), gate.wait(10)))
    worker.start()
    assert begun.wait(10)
    for i in range(1000):
        worker.draw("main", lambda i=i: drawn.append(i))
        worker.draw("other", lambda i=i: drawn.append(-i))
    gate.set()
    wait_for(lambda: len(drawn) == 2)
    worker.close(10)
    assert drawn == [999, -999]


def test_a_job_that_is_done_at_once_is_told_after_it_is_accepted(studio, page, base):
    """A page learns the number of its job before anything of that job."""
    page.send({"kind": "keep", "look": {"base": base}, "ticket": 5})
    told = []
    while not told or told[-1]["kind"] != "job" or told[-1]["job"]["status"] != "done":
        message = page.receive()
        told += [message] if isinstance(message, dict) and message["kind"] in ("accepted", "job") else []
    assert told[0] == {"kind": "accepted", "ticket": 5, "job": told[-1]["job"]["id"]}


def test_too_many_jobs_are_refused():
    worker = Worker()
    for _ in range(MOST_JOBS):
        worker.submit(lambda: None)
    with pytest.raises(Full):
        worker.submit(lambda: None)


# ---- attacks


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example"},
        {"Host": "evil.example:8642"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "10.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_other_pages_may_neither_read_nor_drive(studio, headers):
    for method, path in (("GET", ""), ("POST", "pictures/x.png"), ("GET", "picture/samples/portrait-00.png")):
        assert studio.http(method, path, headers=headers)[0] == 403
    with pytest.raises(Refused):
        Socket(studio, headers=headers)


@pytest.mark.parametrize("path", ["/", "/work", "/page/main.js", "/x/", "//", "/%2e%2e/", "/pictures/a.png"])
def test_nothing_without_the_token(studio, path):
    for method in ("GET", "POST"):
        status, _, body = studio.http(method, path, token=False)
        assert (status, b"token" in body) == (403, True)
        assert studio.address.token.encode() not in body
    with pytest.raises(Refused):
        Socket(studio, path=path)
    wrong = studio.address.token[:-1] + ("a" if studio.address.token[-1] != "a" else "b")
    assert studio.http("GET", f"/{wrong}/", token=False)[0] == 403


NAMES = [
    "../secret.txt",
    "..%2fsecret.txt",
    "%2e%2e/secret.txt",
    "a/../../secret.txt",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "..\\secret.txt",
    ".lock",
    "i2s-3-steps-l2=1/.resume/x",
    "link.txt",
    "link/secret.txt",
    "a%00.png",
    "C:/x",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_folder(studio, workplace, name):
    (workplace / "secret.txt").write_text("SECRET")
    for link, to in (("link.txt", workplace / "secret.txt"), ("link", workplace)):
        if not (studio.root / link).is_symlink():
            (studio.root / link).symlink_to(to)
    for route in ("files", "picture", "picture/samples", "page"):
        status, _, body = studio.http("GET", f"{route}/{name}")
        assert status in (400, 404, 200 if (route, name) == ("page", "") else 404), (route, name, status)
        assert b"SECRET" not in body and b"root:" not in body


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\\b", "", ".", "..", ".hidden", "a/../b", "a\0b", "C:x"])
def test_places_of_messages_are_checked_too(studio, page, name):
    with pytest.raises(UsageError):
        inside(studio.root, name)
    page.send({"kind": "draw", "id": 1, "look": {"base": name}})
    if name != ".":
        assert "place" in page.told("error")["text"]


def test_a_picture_of_100_mb_is_refused_unread(studio):
    status, _, body = studio.http("POST", "pictures/big.png", headers={"Content-Length": str(100 << 20)})
    assert (status, b"30 MB" in body) == (413, True)


def test_a_picture_whose_size_is_not_said_is_refused_when_it_is_too_large(studio):
    """Sent in chunks, and given up by the server in the midst of it."""
    import socket

    sock = socket.create_connection(("127.0.0.1", studio.address.port), timeout=30)
    head = f"POST {studio.base}pictures/big.png HTTP/1.1\r\nHost: 127.0.0.1:{studio.address.port}\r\n"
    sock.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    try:
        for _ in range((MOST_BYTES >> 20) + 4):
            sock.sendall(chunk)
    except OSError:  # it closed the door
        pass
    assert b" 413 " in sock.recv(1000).split(b"\r\n")[0]
    sock.close()
    assert not list((studio.root / "pictures").glob("big*"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("text.png", b"this is a text"),
        ("page.png", b"<html><script>alert(1)</script></html>"),
        ("cut.png", b"\x89PNG\r\n\x1a\n" + bytes(20)),
        ("empty.png", b""),
        ("run.pkl", b"\x80\x04."),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
    ],
)
def test_what_is_no_picture_is_refused_and_not_kept(studio, name, data):
    status, headers, body = studio.http("POST", f"pictures/{name}", data)
    assert status == 415 and name.split(".")[0] in json.loads(body)["error"]
    assert "json" in headers["content-type"]
    assert not list((studio.root / "pictures").glob(f"*{Path(name).stem}*"))


def test_names_of_pictures_become_plain(tmp_path, workplace):
    data = (workplace / "photos" / "a.png").read_bytes()
    for name in ("<img src=x onerror=alert(1)>.png", "../../up.png", "a/b\\c.png", ".hidden.png", "x" * 400 + ".png"):
        key = received(tmp_path, name, data)
        assert (tmp_path / key).parent == tmp_path / "pictures" and not set(key) & set("<>\\ ()'\"")
        assert not Path(key).name.startswith(".")
    assert received(tmp_path, "a.png", data) == received(tmp_path, "a.png", data) == "pictures/a.png"
    assert received(tmp_path, "a.png", (workplace / "photos" / "b.png").read_bytes()) == "pictures/a-2.png"


def test_html_in_names_is_no_html(studio, base):
    """A folder of results may be called anything; the page makes text of it, and no answer is a page but the one."""
    named = studio.root / "<img src=x onerror=alert(1)>"
    shutil.copytree(studio.root / base, named, dirs_exist_ok=True)
    socket = Socket(studio)
    assert named.name in [r["base"] for r in socket.told("lists")["results"]]
    socket.close()
    shutil.rmtree(named)
    status, headers, _ = studio.http("GET", "files/%3Cscript%3Ealert(1)%3C/script%3E")
    assert status == 404 and "json" in headers["content-type"]
    (studio.root / "evil.html").write_text("<script>alert(1)</script>")
    assert studio.http("GET", "files/evil.html")[0] == 404
    for name in (Path(__file__).parent.parent / "latentopt" / "studio" / "page").glob("*.js"):
        text = name.read_text()
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert sink not in text, (name, sink)


def test_every_answer_has_a_strict_policy(studio):
    _, headers, body = studio.http("GET", "")
    policy = headers["content-security-policy"]
    for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action"):
        assert part in policy
    assert "unsafe" not in policy and b"://" not in body.replace(b"http://www.w3.org", b"")
    assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"


def test_a_thousand_messages_a_second(studio, page, base):
    """Of a flood of drawings only the newest are drawn, the page is told no lies, and others are still served."""
    for i in range(1000):
        page.send({"kind": "draw", "id": i, "look": {"base": base, "edits": [{"name": "smile", "strength": i / 500}]}})
    began, frames = time.monotonic(), 1
    while page.drawing()[0] != 999:
        frames += 1
    assert frames < 500 and time.monotonic() - began < 20
    assert studio.http("GET", "")[0] == 200


FAULTS = [
    "",
    "{",
    "[]",
    "null",
    '"draw"',
    '{"kind": "nothing"}',
    '{"kind": "draw"}',
    '{"kind": "draw", "id": "x", "look": {"base": "a"}}',
    '{"kind": "draw", "id": 1, "look": {"base": 5}}',
    '{"kind": "draw", "id": 1, "look": {"base": "a"}, "more": 1}',
    '{"kind": "draw", "id": 1, "look": {"base": "a", "edits": [{"name": "smile", "strength": NaN}]}}',
    '{"kind": "draw", "id": 1, "look": {"base": "a", "edits": [{"name": "smile", "strength": 1e999}]}}',
    '{"kind": "invert", "picture": "a", "recipe": "i2s", "steps": 0}',
    '{"kind": "invert", "picture": "a", "recipe": "' + "x" * 500 + '"}',
    '{"kind": "stop", "job": 99999999999999999999999999}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", FAULTS, ids=lambda text: text[:40])
def test_messages_that_are_none_are_refused(text):
    with pytest.raises(UsageError):
        read_message(text)


def test_messages_that_are_some():
    message, ticket = read_message('{"kind": "draw", "id": 1, "ticket": 4, "look": {"base": "a"}}')
    assert isinstance(message, Draw) and (message.look.base, ticket) == ("a", 4)


REFUSED = [
    {"kind": "invert", "picture": "pictures/none.png", "recipe": "i2s"},
    {"kind": "invert", "picture": "samples/portrait-00.png", "recipe": "/etc/passwd"},
    {"kind": "invert", "picture": "samples/portrait-00.png", "recipe": "../x.toml"},
    {"kind": "invert", "picture": "samples/../../x.png", "recipe": "i2s"},
    {"kind": "restore", "picture": "samples/portrait-00.png", "operator": "os:system"},
    {"kind": "restore", "picture": "samples/portrait-00.png", "operator": "mask:/etc/passwd"},
    {"kind": "tune", "result": "../x", "method": "pti"},
    {"kind": "stop", "job": 12345},
    {"kind": "again", "job": 12345},
]


@pytest.mark.parametrize("message", REFUSED, ids=lambda m: " ".join(map(str, m.values())))
def test_what_cannot_be_meant_is_refused_with_a_reason(studio, page, message):
    page.send({"ticket": 9, **message})
    assert page.told("error")["ticket"] == 9


def test_a_socket_that_sends_nonsense_is_closed(studio):
    socket = Socket(studio)
    with pytest.raises(Refused):
        for _ in range(200):
            socket.send("nonsense")
            socket.receive()


def test_a_message_that_is_too_large_closes_the_socket(studio):
    socket = Socket(studio)
    with pytest.raises((Refused, OSError)):
        socket.send("x" * (5 << 20))
        socket.until(lambda m: False)


def test_a_torn_socket_and_too_many_pages_harm_nobody(studio, base):
    sockets = []
    with pytest.raises(Refused):
        for _ in range(40):
            sockets.append(Socket(studio))
    for socket in sockets:
        socket.send({"kind": "draw", "id": 1, "look": {"base": base}})
        socket.tear()

    def joins():
        try:
            return Socket(studio)
        except Refused:
            return None

    last = wait_for(joins)
    last.send({"kind": "draw", "id": 8, "look": {"base": base}})
    assert last.drawing()[0] == 8
    last.close()


# ---- the command


def test_without_the_extra_the_command_says_what_to_install(latentopt, monkeypatch, tmp_path):
    import sys

    for name in [name for name in sys.modules if name.startswith("latentopt.studio")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = latentopt("studio", "--no-open", "--outdir", tmp_path)
    assert (code, "latentopt[ui]" in err) == (1, True)


def test_a_taken_port_is_said(latentopt, tmp_path, studio):
    code, _, err = latentopt("studio", "--no-open", "--outdir", tmp_path, "--port", studio.address.port)
    assert (code, "--port" in err) == (2, True)
