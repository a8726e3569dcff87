#!/usr/bin/env python3
"""Renders a report.html at phone and desktop width, light and dark, with a headless Chromium: to be looked at.

    python3 tools/report_screens.py runs/first/report.html --output screens

Needs `chromium` (or a path in --browser); nothing of the project does. Also fails if the page is wider than the screen or its script stops.
"""

import argparse
import base64
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

WIDTHS = {"phone": 390, "desktop": 1280}
# Taller pages are shown in several pictures.
TALLEST = 4000


class Browser:
    """Chromium, spoken to through its debugging protocol over one WebSocket."""

    def __init__(self, program: str):
        self.folder = tempfile.mkdtemp(prefix="report-screens-")
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        self.process = subprocess.Popen(
            [program, *arguments, f"--user-data-dir={self.folder}", "about:blank"], stderr=subprocess.PIPE, text=True
        )
        for line in self.process.stderr:
            if found := re.search(r"ws://([^:]+):(\d+)/", line):
                self.host, self.port = found[1], int(found[2])
                break
        else:
            sys.exit("the browser did not start")
        with urllib.request.urlopen(f"http://{self.host}:{self.port}/json") as answer:
            target = next(t for t in json.load(answer) if t["type"] == "page")
        self.open(target["webSocketDebuggerUrl"])
        self.number = 0
        self.errors: list[str] = []
        for name in ["Page", "Runtime"]:
            self.call(f"{name}.enable")

    def open(self, url: str):
        path = url.split(str(self.port), 1)[1]
        self.socket = socket.create_connection((self.host, self.port))
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.stream = self.socket.makefile("rb")
        while self.stream.readline().strip():
            pass

    def send(self, text: str):
        data, mask = text.encode(), os.urandom(4)
        head = b"\x81" + (
            struct.pack("!B", 0x80 | len(data)) if len(data) < 126
            else struct.pack("!BH", 0xFE, len(data)) if len(data) < 65536
            else struct.pack("!BQ", 0xFF, len(data))
        )
        self.socket.sendall(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def receive(self) -> dict:
        whole = b""
        while True:
            first, length = self.stream.read(2)
            if length == 126:
                length = struct.unpack("!H", self.stream.read(2))[0]
            elif length == 127:
                length = struct.unpack("!Q", self.stream.read(8))[0]
            whole += self.stream.read(length)
            if first & 0x80:
                return json.loads(whole)

    def call(self, method: str, **parameters):
        self.number += 1
        self.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = self.receive()
            if message.get("method") == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            if message.get("id") == self.number:
                if "error" in message:
                    sys.exit(f"{method}: {message['error']['message']}")
                return message["result"]

    def evaluate(self, expression: str):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--output", type=Path, default=Path("screens"))
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome") or "chromium")
    parser.add_argument("--sections", nargs="*", help="pictures of these sections only, by id, e.g. accuracy debates")
    parser.add_argument("--script", help="JavaScript to run first, e.g. to click on something")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    browser = Browser(options.browser)
    wide = []
    try:
        for name, width in WIDTHS.items():
            for scheme in ["light", "dark"]:
                browser.call(
                    "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=name == "phone"
                )
                browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
                browser.call("Page.navigate", url=options.page.resolve().as_uri())
                time.sleep(1.5)
                if options.script:
                    browser.evaluate(options.script)
                    time.sleep(0.5)
                if browser.evaluate("document.documentElement.scrollWidth") > width:
                    wide.append(name)
                boxes = {"page": [0, browser.evaluate("document.documentElement.scrollHeight")]}
                if options.sections:
                    boxes = {
                        s: browser.evaluate(
                            f"(() => {{ const r = document.getElementById('{s}').getBoundingClientRect();"
                            " return [r.top + scrollY - 20, r.height + 40]; })()"
                        )
                        for s in options.sections
                    }
                for box, (top, height) in boxes.items():
                    for part in range(int((height + TALLEST - 1) // TALLEST)):
                        clip = {
                            "x": 0, "y": top + part * TALLEST, "width": width, "height": min(TALLEST, height - part * TALLEST), "scale": 1
                        }
                        picture = browser.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
                        path = options.output / f"{name}-{scheme}-{box}-{part + 1}.png"
                        path.write_bytes(base64.b64decode(picture))
                        print(path)
    finally:
        browser.close()
    for error in browser.errors:
        print(f"script: {error}", file=sys.stderr)
    for name in sorted(set(wide)):
        print(f"{name}: the page is wider than the screen", file=sys.stderr)
    sys.exit(1 if browser.errors or wide else 0)


if __name__ == "__main__":
    main()
