"""Headless Chromium, driven over a pair of pipes in the DevTools protocol: no port, no driver, no further package."""

import base64
import json
import os
import subprocess

from program import ENVIRONMENT, PATIENCE, ROOT, wait_until

PACKAGE = "chromium-headless-shell"
FOLDER = ROOT / ".deps" / PACKAGE
FONTS = """<fontconfig><dir>/usr/share/fonts</dir><dir>{folder}/usr/share/fonts</dir>
<cachedir>{cache}</cachedir></fontconfig>"""


def fetch_browser():
    subprocess.run([ROOT / "tools/fetch_deb.sh", "--with-dependencies", PACKAGE], check=True, timeout=600)


class Browser:
    """One page in one window; a context manager that leaves no process behind."""

    def __init__(self, directory, url, width=1100, height=1400):
        directory.mkdir()
        fonts = directory / "fonts.conf"
        fonts.write_text(FONTS.format(folder=FOLDER, cache=directory / "fonts"))
        read_commands, self.commands = os.pipe()
        self.answers, write_answers = os.pipe()
        self.log = (directory / "browser.log").open("wb")
        # The shell puts the pipes where the browser looks for them, and becomes the browser.
        self.process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{read_commands} 4>&{write_answers}',
                "bash",
                FOLDER / "usr/lib/chromium/chromium-headless-shell",
                "--remote-debugging-pipe",
                "--no-sandbox",  # for root, in containers; it sees our own page alone
                "--disable-gpu",
                "--disable-dev-shm-usage",
                f"--user-data-dir={directory / 'profile'}",
            ],
            env=ENVIRONMENT
            | {"LD_LIBRARY_PATH": library_path(), "FONTCONFIG_FILE": str(fonts), "HOME": str(directory)},
            pass_fds=(read_commands, write_answers),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        os.close(read_commands)
        os.close(write_answers)
        self.buffer, self.last_id, self.session, self.messages = b"", 0, None, []
        self.open(url, width, height)

    def open(self, url, width, height):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self.commands)
        os.close(self.answers)
        self.log.close()

    def call(self, method, **parameters):
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self.next_message()).get("id") != self.last_id:
            self.messages.append(answer)
        assert "result" in answer, answer
        return answer["result"]

    def next_message(self):
        while b"\0" not in self.buffer:
            part = os.read(self.answers, 1 << 16)
            assert part, "the browser ended"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def value(self, expression):
        """What a JavaScript expression gives in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector):
        return self.value(f"document.querySelector({json.dumps(selector)})?.textContent || ''")

    def wait_for(self, expression, timeout=PATIENCE):
        return wait_until(lambda: self.value(expression), expression, timeout, interval=0.05)

    def resize(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9}[key])

    def screenshot(self):
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def complaints(self):
        """Exceptions, and what the page said or was refused, but for a run that no longer answers."""
        self.value("0")
        events = [m for m in self.messages if m.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
        return [e for e in events if "ERR_CONNECTION" not in json.dumps(e) and "ERR_EMPTY" not in json.dumps(e)]


def library_path():
    folders = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio")
    return ":".join(f"{FOLDER}/{folder}" for folder in folders)
