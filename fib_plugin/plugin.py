"""register(): what engines call at start. Reads the settings, installs the adapters, never raises."""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fib_plugin.capture.config import CaptureConfig
    from fib_plugin.metrics import Exposition
    from fib_plugin.patch import Installation
    from fib_plugin.runtime import Runtime
    from fib_plugin.settings import Settings

logger = logging.getLogger("fib_plugin")

_lock = threading.RLock()
_active: Active | None = None


class Active:
    """A runtime and what was installed for it."""

    def __init__(self, runtime: Runtime, installation: Installation, exposition: Exposition | None = None) -> None:
        self.runtime = runtime
        self.installation = installation
        self.exposition = exposition


def register() -> None:
    """Entry point of ``vllm.general_plugins`` and ``sglang.srt.plugins``: idempotent, cheap, and safe to fail.

    An exception that left this function would stop vLLM, so none does: a problem is logged in one line and the
    engine runs as if the plugin were not installed.
    """
    try:
        _register()
    except (Exception, SystemExit) as error:
        _log_setup("INFO")
        logger.warning("fib-plugin is off: %s", _one_line(error))
        logger.debug("details", exc_info=True)


def _register() -> None:
    from fib_plugin.settings import SettingsError, load

    if active() is not None:
        return
    try:
        settings = load()
    except SettingsError as error:
        _log_setup("INFO")
        logger.error("fib-plugin is off: %s", error)
        return
    _log_setup(settings.log_level)
    if settings.wanted:
        activate(settings, apply=settings.enable_apply, tracing=settings.enable_tracing)


def activate(settings: Settings, *, apply: bool, tracing: bool, capture: CaptureConfig | None = None) -> Active:
    """Makes a runtime and installs the selected adapters; an earlier one is taken out first.

    With FIB_DISABLE nothing is installed and nothing is recorded, whoever asks.

    Raises:
        SettingsError: FIB_ADAPTERS names an adapter that does not exist.
    """
    global _active
    from fib_plugin import metrics
    from fib_plugin.adapter import discover
    from fib_plugin.capture.config import for_engine
    from fib_plugin.patch import Installation
    from fib_plugin.runtime import Runtime
    from fib_plugin.settings import SettingsError

    if settings.disable:
        logger.warning("FIB_DISABLE is set: nothing is patched, substituted or recorded")
        apply = tracing = False
    with _lock:
        found = [] if settings.disable else discover()
        unknown = settings.unknown_adapters(adapter.name for adapter in found)
        if unknown and not settings.disable:
            names = ", ".join(sorted(adapter.name for adapter in found))
            raise SettingsError(f"FIB_ADAPTERS names {', '.join(unknown)}, which no adapter answers to; known: {names}")
        deactivate()
        if tracing and capture is None:
            capture = for_engine(settings.capture_config)
            tracing = capture is not None
        runtime = Runtime(settings, apply=apply, tracing=tracing, capture=capture)
        # Supporting adapters look at what the others want, so they come last.
        for kind in sorted(found, key=lambda kind: kind.support):
            if kind.engine.version() is None or not (kind.support or settings.selects(kind.name)):
                continue
            try:
                adapter = kind(runtime)
                wanted = adapter.wanted()
            except Exception as error:
                logger.warning("adapter %s cannot be used and is left out: %s", kind.name, _one_line(error))
                continue
            if wanted:
                runtime.adapters[kind.name] = adapter
            elif not kind.support:
                runtime.note(f"{kind.name}: not installed, no proven solution for {', '.join(kind.families)}")
        installation = Installation(list(runtime.adapters.values()))
        runtime.describe_targets = lambda: [patch.describe() for patch in installation.patches]
        installation.install()
        _active = Active(runtime, installation, metrics.expose(runtime))
        return _active


def active() -> Active | None:
    """What is installed in this process, if anything."""
    return _active


def deactivate() -> None:
    """Takes every patch out and flushes what was recorded. Safe to call when nothing is installed."""
    global _active
    with _lock:
        if _active is not None:
            if _active.exposition is not None:
                _active.exposition.close()
            _active.installation.uninstall()
            _active.runtime.close()
            _active = None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def _log_setup(level: str) -> None:
    """One handler on our own logger; the host's logging is left alone."""
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("fib-plugin %(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
