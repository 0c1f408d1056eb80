"""The studio in a browser: twenty flows in one headless Chromium, none of which may talk to another machine."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from latentopt.files.resources import PACKAGE

for package in ("starlette", "uvicorn", "wsproto"):
    pytest.importorskip(package, reason="the studio's extra is not installed: pip install 'latentopt[ui]'")
api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = os.environ.get("LATENTOPT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no Chromium is installed (apt install chromium, or name it in LATENTOPT_CHROMIUM)",
                allow_module_level=True)  # fmt: skip

from studio_client import serving  # noqa: E402

from latentopt.api import load_generator  # noqa: E402

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync"]  # fmt: skip
PATIENCE = 120_000  # milliseconds, for machines that do other things too
SAMPLE = "samples/portrait-03.png"
RESULT = "hybrid-e4e-4-steps/portrait-03"


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    with serving(load_generator("portraits"), tmp_path_factory.mktemp("browser") / "out") as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGS)
        yield found
        found.close()


class Tab:
    """One tab: it notes every address that it asks for, and every error of its scripts."""

    def __init__(self, context, studio) -> None:
        self.studio, self.page = studio, context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("dialog", lambda dialog: self.errors.append(f"a dialog: {dialog.message}") or dialog.dismiss())
        self.open()

    def open(self) -> None:
        self.page.goto(self.studio.address.url)
        self.page.wait_for_selector("body[data-ready]")

    def until(self, expression: str):
        """The value of a JavaScript expression, once it is true: asked from outside, since the page allows no eval."""
        end = time.monotonic() + PATIENCE / 1000
        while not (found := self.page.evaluate(expression)):
            assert time.monotonic() < end, f"waited in vain for {expression}; {self.page.inner_text('#toast')}"
            time.sleep(0.02)
        return found

    def look(self):
        return self.page.evaluate("studio.state.look")

    def drawn(self, action) -> None:
        """Do something, and wait for the new picture, the last one where several were asked for."""
        before = self.page.evaluate("Number(document.getElementById('after').dataset.loaded ?? 0)")
        action()
        self.until(
            f"Number(document.getElementById('after').dataset.loaded ?? 0) > {before}"
            " && studio.stats.sent === studio.stats.answered && document.getElementById('after').complete"
        )

    def slide(self, name: str, value: float) -> None:
        self.page.eval_on_selector(
            f"#slider-{name}",
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input'));"
            " slider.dispatchEvent(new Event('change')); }",
            value,
        )

    def picture(self) -> str:
        """What is shown, as a digest."""
        return self.page.evaluate("""async () => {
            const image = document.getElementById('after');
            while (!await image.decode().then(() => true, () => false)) { /* another drawing took its place */ }
            const paper = Object.assign(document.createElement('canvas'), { width: 64, height: 64 });
            paper.getContext('2d').drawImage(image, 0, 0, 64, 64);
            return paper.toDataURL();
        }""")

    def invert(self, picture: str = SAMPLE, recipe: str = "hybrid-e4e", steps: int = 4) -> None:
        self.page.click(f"[data-picture='{picture}']")
        self.page.click("#tab-invert")
        self.page.select_option("#recipe", recipe)
        self.page.fill("#steps", str(steps))
        self.page.click("#invert")

    def opened(self, base: str = RESULT) -> None:
        """Open a result, without anything done to it."""
        self.drawn(lambda: self.page.click(f"[data-base='{base}']"))


@pytest.fixture(scope="module")
def context(browser):
    found = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    yield found
    found.close()


@pytest.fixture(scope="module")
def shared_tab(context, studio):
    """One tab with one inversion, for all flows that do not need one of their own."""
    tab = Tab(context, studio)
    tab.invert()
    tab.until(f"studio.state.look?.base === '{RESULT}'")
    return tab


@pytest.fixture
def tab(shared_tab):
    """The shared tab: after each flow no script may have failed, and nothing but this studio may have been asked."""
    yield shared_tab
    assert not shared_tab.errors
    own = f"127.0.0.1:{shared_tab.studio.address.port}"
    others = [url for url in shared_tab.asked if urlsplit(url).netloc not in (own, "") and not url.startswith("blob:")]
    assert not others


def test_1_a_dropped_picture_is_inverted_and_its_edit_exported(tab, studio, tmp_path):
    data = (PACKAGE / "bundled" / "samples" / "portrait-01.png").read_bytes()
    tab.page.evaluate(
        """(bytes) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], 'dropped.png', { type: 'image/png' }));
            document.dispatchEvent(new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true }));
        }""",
        list(data),
    )
    tab.page.wait_for_selector("[data-picture='pictures/dropped.png']")
    tab.invert("pictures/dropped.png")
    base = "hybrid-e4e-4-steps/dropped"
    tab.until(f"studio.state.look?.base === '{base}'")
    tab.page.click("#tab-edit")
    tab.drawn(lambda: tab.slide("smile", 1.5))
    tab.page.click("#tab-export")
    tab.page.click("#save")
    with tab.page.expect_download() as download:
        tab.page.click("#files li:first-child a")
    download.value.save_as(tmp_path / "edited.png")
    written = studio.root / base / "edits" / "dropped" / "smile+1.5.png"
    assert (tmp_path / "edited.png").read_bytes() == written.read_bytes()
    assert written.with_suffix(".safetensors").is_file()


def test_2_a_slider_draws_what_the_command_line_would(tab, studio):
    tab.opened()
    plain = tab.picture()
    tab.drawn(lambda: tab.slide("hair_tone", -2))
    assert tab.look()["edits"] == [{"name": "hair_tone", "strength": -2}]
    assert tab.picture() != plain
    tab.drawn(lambda: tab.slide("hair_tone", 0))
    assert (tab.look()["edits"], tab.picture()) == ([], plain)


def test_3_undo_redo_and_the_history(tab):
    tab.opened()
    plain = tab.picture()
    tab.drawn(lambda: tab.slide("smile", 2))
    smiling = tab.picture()
    tab.drawn(lambda: tab.slide("yaw", 1))
    tab.drawn(lambda: tab.page.click("#undo"))
    assert tab.picture() == smiling
    tab.drawn(lambda: tab.page.keyboard.press("Control+z"))
    assert tab.picture() == plain and tab.page.input_value("#slider-smile") == "0"
    tab.drawn(lambda: tab.page.keyboard.press("Control+Shift+Z"))
    assert tab.picture() == smiling
    tab.drawn(lambda: tab.page.click("#history li:last-child button"))
    assert [edit["name"] for edit in tab.look()["edits"]] == ["smile", "yaw"]
    assert tab.page.get_attribute("#history li:last-child button", "aria-current") == "step"


def test_4_rows_of_a_direction(tab):
    tab.opened()
    tab.page.click("#tab-edit")
    tab.page.fill("#search", "smile")
    assert tab.page.locator(".slider:visible").count() == 1
    tab.drawn(lambda: tab.slide("smile", 1))
    tab.page.click(".slider:visible summary")
    tab.page.fill("[aria-label='smile: last row']", "3")
    tab.drawn(lambda: tab.page.keyboard.press("Tab"))
    assert tab.look()["edits"] == [{"name": "smile", "strength": 1, "first": 2, "last": 3}]
    tab.page.fill("#search", "")
    tab.page.click("#tab-export")
    tab.until("document.getElementById('lines').textContent.includes('--do smile=+1@2-3')")


def test_5_a_slider_moves_by_the_keyboard(tab):
    tab.opened()
    tab.page.click("#tab-edit")
    tab.page.focus("#slider-beard")
    tab.drawn(lambda: tab.page.keyboard.press("ArrowRight"))
    assert tab.look()["edits"] == [{"name": "beard", "strength": 0.05}]
    tab.page.focus("#tab-edit")
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.get_attribute("#tab-drag", "aria-selected") == "true"
    assert tab.page.is_visible("#panel-drag") and not tab.page.is_visible("#panel-edit")


def test_6_wipe_and_side_by_side(tab):
    tab.opened()
    tab.page.click("text=Wipe")
    tab.page.focus("#wipe")
    tab.page.keyboard.press("Home")
    assert tab.page.evaluate("document.querySelector('.frames').style.getPropertyValue('--wipe')") == "0%"
    tab.until("document.getElementById('before').naturalWidth > 0")
    tab.page.click("text=Side by side")
    boxes = [tab.page.locator(f"#{name}").bounding_box() for name in ("before", "after")]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    tab.page.click("#views >> text=Picture")
    assert not tab.page.is_visible("#before")


def test_7_two_methods_side_by_side_are_edited_together(tab):
    tab.page.click(f"[data-picture='{SAMPLE}']")
    tab.page.click("#tab-invert")
    tab.page.select_option("#recipe", "hybrid-e4e")
    tab.page.fill("#steps", "2")
    tab.page.click("summary:has-text('Compare two methods')")
    tab.page.select_option("#second", "i2s")
    tab.page.click("#compare")
    tab.until("studio.state.look?.base === 'hybrid-e4e-2-steps/portrait-03'")
    tab.until("document.querySelector('.frames').dataset.view === 'pair'")
    assert tab.page.input_value("#with") == "i2s-2-steps/portrait-03"
    before = tab.page.get_attribute("#before", "src")
    tab.drawn(lambda: tab.slide("smile", 2))
    tab.until(f"document.getElementById('before').src !== '{before}'")
    tab.page.click("#views >> text=Picture")


def test_8_mixing_by_rows(tab, studio):
    tab.opened()
    plain = tab.picture()
    tab.page.click("#tab-mix")
    tab.page.select_option("#mix-with", "hybrid-e4e-4-steps/dropped")
    tab.drawn(lambda: tab.page.click("#mix"))
    assert tab.picture() != plain and tab.look()["mix"]["other"] == "hybrid-e4e-4-steps/dropped"
    tab.page.click("#tab-export")
    tab.page.click("#save")
    tab.page.wait_for_selector("#files li:nth-child(2)")
    assert list((studio.root / "mixed").rglob("portrait-03+dropped.safetensors"))
    assert "latentopt mix" in tab.until("document.getElementById('lines').textContent")


def test_9_tuning(tab, studio):
    tab.opened()
    tab.page.click("#tab-invert")
    tab.page.select_option("#method", "weights")
    tab.page.fill("#tune-steps", "2")
    tab.page.click("#tune")
    tab.until("studio.state.look?.base.includes('tuned-weights')")
    tab.page.click("#tab-export")
    tab.page.click("#save")
    tab.page.wait_for_selector("#files [data-name$='delta.safetensors']")
    assert "latentopt tune" in tab.until("document.getElementById('lines').textContent")


def test_10_restoring(tab, studio):
    tab.page.click(f"[data-picture='{SAMPLE}']")
    tab.page.click("#tab-restore")
    tab.page.select_option("#operator-preset", "down:2")
    tab.page.select_option("#restore-recipe", "i2s")
    tab.page.fill("#restore-steps", "2")
    tab.page.click("#restore")
    tab.until("studio.state.look?.base.startsWith('restored-')")
    assert (studio.root / tab.look()["base"] / "measurement.png").is_file()


def test_11_cutting_by_hand(tab, studio):
    tab.page.click(f"[data-picture='{SAMPLE}']")
    tab.page.click("#tab-invert")
    tab.page.click("#crop-open")
    tab.page.wait_for_selector("#crop[open]")
    tab.until("document.querySelector('#crop img').naturalWidth > 0")
    tab.page.focus("#crop-size")
    tab.page.keyboard.press("Home")
    tab.page.click("#crop-use")
    tab.until("studio.state.picture?.startsWith('pictures/portrait-03-')")
    assert (studio.root / tab.page.evaluate("studio.state.picture")).is_file()


def test_12_the_dial(tab):
    tab.page.click(f"[data-picture='{SAMPLE}']")
    tab.page.click("#tab-invert")
    tab.page.select_option("#recipe", "ii2s")
    tab.page.fill("#steps", "2")
    tab.page.focus("#dial")
    tab.page.keyboard.press("Home")
    tab.page.click("#invert")
    tab.until("studio.state.look?.base === 'ii2s-2-steps-clip-0.5/portrait-03'")
    tab.page.click("#tab-export")
    assert "--clip 0.5" in tab.until("document.getElementById('lines').textContent")


def test_13_a_drag_with_a_mask_and_its_undo(tab, studio):
    tab.opened()
    plain = tab.picture()
    tab.page.click("#tab-drag")
    tab.page.locator("#overlay").scroll_into_view_if_needed()
    box = tab.page.locator("#overlay").bounding_box()

    def pull(*shares):
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in shares]
        tab.page.mouse.move(*places[0])
        tab.page.mouse.down()
        tab.page.mouse.move(*places[1], steps=4)
        tab.page.mouse.up()

    pull((0.5, 0.5), (0.6, 0.5))
    assert tab.page.locator("#panel-drag li").count() == 1
    tab.page.click("#paint")
    pull((0.3, 0.4), (0.7, 0.6))
    tab.page.click("#paint")
    tab.page.fill("#drag-steps", "2")
    tab.page.click("#drag")
    tab.until("studio.state.look?.base.includes('/dragged/')")
    assert list((studio.root / RESULT / "dragged").rglob("*.mask.png"))
    tab.page.click("#tab-export")
    tab.until("document.getElementById('lines').textContent.includes('latentopt drag')")
    tab.drawn(lambda: tab.page.click("#undo"))
    assert tab.picture() == plain


def test_14_stop_and_go_on(tab):
    tab.page.click("[data-picture='samples/portrait-05.png']")
    tab.invert("samples/portrait-05.png", "i2s", 5000)
    job = "[data-kind='invert'][data-status='running']"
    tab.page.wait_for_selector(job)
    tab.until("[...document.querySelectorAll('.job .figures')].some((f) => / left/.test(f.textContent))")
    tab.until("document.querySelector(\".job[data-status='running'] polyline\")?.getAttribute('points').includes(' ')")
    tab.page.click(f"{job} >> text=Stop")
    tab.page.wait_for_selector("[data-kind='invert'][data-status='stopped']")
    tab.page.click("[data-status='stopped'] >> text=Go on")
    tab.page.wait_for_selector(job)
    tab.until("!/step [01] of/.test(document.querySelector(\".job[data-status='running'] .figures\").textContent)")


def test_15_a_reload_in_the_middle_of_a_run(tab):
    """The run that the flow before has begun goes on, and the page comes back to it."""
    number = tab.page.get_attribute(".job[data-status='running']", "data-job")
    looks = tab.page.evaluate("studio.state.history.length")
    tab.page.reload()
    tab.page.wait_for_selector("body[data-ready]")
    tab.page.wait_for_selector(f".job[data-status='running'][data-job='{number}']")
    assert tab.page.evaluate("studio.state.history.length") == looks
    assert " " in tab.page.get_attribute(".job[data-status='running'] polyline", "points")
    tab.until("document.getElementById('after').naturalWidth > 0")


def test_16_sliders_answer_while_a_run_goes_on(tab):
    tab.opened()
    tab.drawn(lambda: tab.slide("smile", 1))
    assert tab.page.is_visible(".job[data-status='running']")


def test_17_a_second_tab_sees_the_same(tab, context, studio):
    other = Tab(context, studio)
    number = other.page.get_attribute(".job[data-status='running']", "data-job")
    assert number == tab.page.get_attribute(".job[data-status='running']", "data-job")
    other.opened()
    other.drawn(lambda: other.slide("smile", -1))
    assert tab.look()["edits"] == [{"name": "smile", "strength": 1}]
    other.page.click(".job[data-status='running'] >> text=Stop")
    for each in (tab, other):
        each.page.wait_for_selector(f"[data-job='{number}'][data-status='stopped']")
    assert not other.errors
    other.page.close()


def test_18_a_closed_socket_is_opened_again(tab):
    tab.opened()
    tab.page.evaluate("studio.drop()")
    tab.until("document.getElementById('link').textContent === 'reconnecting'")
    tab.until("document.getElementById('link').textContent === 'connected'")
    tab.drawn(lambda: tab.slide("smile", 1.25))


@pytest.mark.parametrize("name", ["notes.txt", "<img src=x onerror=alert(1)>.png"])
def test_19_what_is_no_picture_is_said(tab, tmp_path, name):
    """And HTML in its name stays text."""
    tab.page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": b"not a picture"})
    tab.page.wait_for_selector("#toast:visible")
    tab.until("document.getElementById('toast').textContent.includes('picture')")
    assert tab.page.locator("img[src='x']").count() == 0
    tab.page.evaluate("document.getElementById('toast').hidden = true")
    tab.errors[:] = [e for e in tab.errors if "415" not in e]  # the browser notes the answer's status


def test_20_a_folder_of_the_command_line_with_html_in_its_name(tab, studio):
    named = studio.root / "<img src=x onerror=alert(1)>"
    shutil.copytree(studio.root / RESULT, named, ignore=lambda folder, names: set(names) & {"edits", "dragged"})
    tab.page.reload()
    tab.page.wait_for_selector("body[data-ready]")
    tab.page.wait_for_selector("#results >> text=<img src=x onerror=alert(1)>")
    tab.drawn(lambda: tab.page.click("#results >> text=<img src=x onerror=alert(1)>"))
    assert tab.page.locator("img[src='x']").count() == 0
    tab.until("[...document.images].every((image) => image.complete)")  # of the folder that goes now
    tab.opened()
    shutil.rmtree(named)


def test_21_light_dark_and_a_phone(tab, browser, studio):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    phone = Tab(context, studio)
    wide = phone.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0  # nothing sticks out
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = phone.page.evaluate(colour)
    phone.page.click("#theme")
    light = phone.page.evaluate(colour)
    assert (
        sum(json.loads(dark[3:].replace("(", "[").replace(")", "]")))
        < 200
        < 600
        < sum(json.loads(light[3:].replace("(", "[").replace(")", "]")))
    )
    phone.opened()
    assert not phone.errors
    context.close()


def test_22_every_control_has_a_name(tab):
    nameless = tab.page.evaluate("""[...document.querySelectorAll('button, input, select, progress')].filter(
        (control) =>
        !control.textContent.trim() && !control.labels?.length && !control.getAttribute('aria-label')
        && !control.querySelector('img')?.alt
    ).map((control) => control.outerHTML.slice(0, 80))""")
    assert nameless == []
    assert tab.page.locator("[role=tab][aria-selected=true]").count() == 1
    assert tab.page.locator("img:not([alt])").count() == 0


def test_23_another_page_cannot_drive_the_studio(tab, context, studio):
    """A page from elsewhere, in the same browser, that knows the address and even the token."""
    evil = context.new_page()
    evil.route("http://evil.example/*", lambda route: route.fulfill(body="<p>evil</p>", content_type="text/html"))
    evil.goto("http://evil.example/")
    tried = """async (url) => {
        const socket = await new Promise((told) => {
            const made = new WebSocket(url.replace('http', 'ws') + 'work');
            made.onopen = () => told('open'); made.onerror = () => told('refused');
        });
        const read = await fetch(url).then(() => 'read', () => 'refused');
        const post = { method: 'POST', body: 'x', mode: 'no-cors' };
        const sent = await fetch(url + 'pictures/evil.png', post).then(() => 'sent', () => 'refused');
        return [socket, read, sent];
    }"""
    answers = evil.evaluate(tried, studio.address.url)
    assert answers[:2] == ["refused", "refused"]
    assert not list((studio.root / "pictures").glob("evil*"))
    framed = "(url) => { const f = document.createElement('iframe'); f.src = url; document.body.append(f); }"
    evil.evaluate(framed, studio.address.url)
    evil.close()


def test_24_the_first_paint(browser, studio):
    """It is told in benchmarks/results/studio.md how soon."""
    context = browser.new_context()
    page = Tab(context, studio).page
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0")
    assert paint > 0
    context.close()


def test_25_a_link_without_the_token_shows_nothing(context, studio):
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    answer = page.goto(f"http://127.0.0.1:{studio.address.port}/")
    assert answer.status == 403 and "token" in page.inner_text("body")
    page.close()


def test_every_script_and_style_is_asked_from_the_studio():
    page = (Path(PACKAGE) / "studio" / "page").glob("*")
    for path in page:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text, path
