"""JupyterLab on this machine alone, and a page of it that does what hands do."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BOOKS = [p for p in sorted((ROOT / "notebooks").rglob("*.ipynb")) if "checkpoint" not in p.name]
SHOTS = ROOT / "outputs" / "screenshots"
BENIGN = ("favicon", "ResizeObserver loop")
SETTINGS = {  # cells that are out of sight are drawn too, and nobody asks for news
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false"},
}
IDLE = """() => {
  const kernel = globalThis.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
  return kernel && kernel.connectionStatus === 'connected' && kernel.status === 'idle';
}"""
RAN = """() => jupyterapp.shell.currentWidget.content.widgets
  .filter(cell => cell.model.type === 'code').every(cell => cell.model.executionCount)"""
FAILED = """() => jupyterapp.shell.currentWidget.content.widgets
  .filter(cell => cell.model.type === 'code')
  .flatMap(cell => cell.model.outputs.toJSON())
  .filter(output => output.output_type === 'error')
  .map(output => `${output.ename}: ${output.evalue}`)"""
ASK = """code => new Promise(resolve => {
  const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
  const said = [], future = kernel.requestExecute({ code, store_history: false });
  future.onIOPub = m => {
    if (m.header.msg_type === 'stream') said.push(m.content.text);
    if (m.header.msg_type === 'error') said.push(m.content.evalue);
  };
  future.done.then(() => resolve(said.join('')));
})"""


def worries(errors: list[str]) -> list[str]:
    """Of what a page complained of, that which somebody should mend."""
    return [error for error in errors if not any(word in error for word in BENIGN)]


@contextmanager
def lab(folder: Path) -> Iterator[str]:
    """The address of a server, with its token in it, that serves ``folder``."""
    for name, values in SETTINGS.items():
        path = folder / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
        f"--LabApp.user_settings_dir={folder / 'settings'}",
        f"--LabApp.workspaces_dir={folder / 'workspaces'}",
    ]  # fmt: skip
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(folder / "ipython"),
    }
    environment.pop("EASYTUNE_CACHE", None)
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=1)
                break
            except OSError:
                time.sleep(0.25)
        yield f"{address}/lab/tree/NOTEBOOK?token={token}&reset"
    finally:
        server.terminate()
        server.wait(30)


class Notebook:
    """A notebook in a page of the browser."""

    def __init__(self, browser: Any, address: str, path: str) -> None:
        size = {"width": 1200, "height": 1000}
        self.page = browser.new_page(viewport=size, device_scale_factor=2)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.errors.append(said.text) if said.type == "error" else None,
        )
        self.page.goto(address.replace("NOTEBOOK", path), timeout=120_000)
        self.page.locator(".jp-Notebook").first.wait_for(timeout=120_000)
        self.page.wait_for_function(IDLE, timeout=120_000)

    def run_all(self, seconds: float = 300.0) -> None:
        """As the menu does; waits until all cells have run."""
        self.page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        self.page.wait_for_function(RAN, timeout=1000 * seconds)
        self.page.wait_for_function(IDLE, timeout=1000 * seconds)

    def failed(self) -> list[str]:
        """What cells raised."""
        return self.page.evaluate(FAILED)

    def python(self, code: str) -> str:
        """What the kernel prints."""
        return self.page.evaluate(ASK, code).strip()

    def panel(self, label: str) -> Any:
        """The first live explorer whose heading begins so."""
        return self.page.locator(".et-panel", has=self.page.locator("h3", has_text=label)).first

    def close(self) -> None:
        """The page, and the kernel behind it."""
        self.page.evaluate("() => jupyterapp.commands.execute('kernelmenu:shutdown')")
        self.page.close()

    def theme(self, name: str) -> None:
        """Light or Dark."""
        change = "name => jupyterapp.commands.execute('apputils:change-theme', { theme: name })"
        self.page.evaluate(change, f"JupyterLab {name}")
        self.page.wait_for_timeout(1500)

    def shots(self, panel: Any, name: str, folder: Path) -> None:
        """At one and two pixels a point, light and dark."""
        for theme in ("Dark", "Light"):
            self.theme(theme)
            panel.scroll_into_view_if_needed()
            self.page.wait_for_timeout(500)
            for times, scale in (("2x", "device"), ("1x", "css")):
                panel.screenshot(path=folder / f"{name}_{theme.lower()}_{times}.png", scale=scale)
