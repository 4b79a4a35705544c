"""Headless Chromium, controlled over two pipes (DevTools protocol), to measure the layout of a page and to use it."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.waiting import PATIENCE, wait_until

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
KEYS = {"Enter": 13, "Tab": 9, " ": 32}
"""Virtual key codes."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """Process with one tab. Requests, console lines and failures of the page since open() are in `events`."""

    def __init__(self, profile: Path):
        to_child, from_parent = os.pipe()
        to_parent, from_child = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_child, from_child)]  # clear of 3 and 4
        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=lambda: (os.dup2(ends[0], 3), os.dup2(ends[1], 4)),
        )
        for end in (to_child, from_child, *ends):
            os.close(end)
        self.write, self.read, self.unread = os.fdopen(from_parent, "wb"), to_parent, bytearray()
        self.numbers, self.session, self.events = itertools.count(1), None, []
        tab = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        self.write.close()
        os.close(self.read)
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the answer to a request; earlier messages go to `events`."""
        number = next(self.numbers)
        request = {"id": number, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        self.write.write(json.dumps(request).encode() + b"\0")
        self.write.flush()
        while (message := self._next()).get("id") != number:
            self.events.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.unread:
            if not select.select([self.read], [], [], PATIENCE)[0]:
                raise RuntimeError(f"the browser has not answered in {PATIENCE} seconds")
            part = os.read(self.read, 2**16)
            if not part:
                raise RuntimeError("the browser has ended")
            self.unread += part
        text, _, self.unread = self.unread.partition(b"\0")
        return json.loads(text)

    def open(self, page: Path | str, width: int, dark: bool = False, media: str = "screen") -> None:
        """Loads a file or URL in a window of `width` pixels (below 600: a phone) and waits until it is loaded."""
        phone = width < 600
        size = {"width": width, "height": 900, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    @property
    def complaints(self) -> list[str]:
        """Returns console lines and requests to other hosts since open()."""
        found = []
        for event in self.events:
            given = event["params"]
            if event["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                found.append(f"console: {json.dumps(given)[:2000]}")
            elif event["method"] == "Network.requestWillBeSent":
                url = given["request"]["url"]
                if url != given["documentURL"] and not url.startswith("data:"):
                    found.append(f"asked for {url}")
        return found

    def evaluate(self, script: str) -> Any:
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def set_language(self, language: str) -> None:
        """Sets navigator.language of pages opened from now on."""
        agent = self.ask("Browser.getVersion")["userAgent"]
        self.ask("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)

    def wait_for(self, condition: str) -> None:
        """Returns as soon as a JavaScript expression is true."""
        wait_until(lambda: self.evaluate(f"!!({condition})"))

    def click(self, selector: str) -> None:
        """Clicks with the mouse on the middle of an element, which must be what lies there."""
        script = f"""(() => {{
          const element = document.querySelector({json.dumps(selector)});
          element.scrollIntoView({{ block: "center", behavior: "instant" }});
          const {{ x, y, width, height }} = element.getBoundingClientRect();
          const at = [x + width / 2, y + height / 2], hit = document.elementFromPoint(...at);
          return element === hit || element.contains(hit) ? at : null;
        }})()"""
        at = self.evaluate(script)
        assert at, f"{selector} is covered"
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Types text where the focus is."""
        self.ask("Input.insertText", text=text)

    def press(self, key: str, control: bool = False) -> None:
        """Presses a key of KEYS, with the control key if asked for."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        about = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        about["modifiers"] = 2 if control else 0
        self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **about)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **about)

    def choose_files(self, selector: str, *files: Path) -> None:
        """Chooses files in an <input type=file>."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def drop_files(self, selector: str, *files: Path) -> None:
        """Drags files from outside onto the middle of an element."""
        at = self.evaluate(f"""(() => {{
          const element = document.querySelector({json.dumps(selector)});
          element.scrollIntoView({{ block: "center", behavior: "instant" }});
          const {{ x, y, width, height }} = element.getBoundingClientRect();
          return [x + width / 2, y + height / 2];
        }})()""")
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.ask("Input.dispatchDragEvent", type=kind, x=at[0], y=at[1], data=data)

    def picture(self, file: Path) -> Path:
        """Writes a PNG of the whole page."""
        answer = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(answer["data"]))
        return file
