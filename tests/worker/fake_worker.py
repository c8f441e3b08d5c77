"""A whole worker on a made-up device: `python fake_worker.py NAME`, settings in the environment.

TEST_DEVICE names another script of this folder for the device.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from service.domain.logs import configure
from service.settings import load_settings
from worker.node import Node
from worker.supervisor import DeviceProcess, DeviceUnavailable

DEVICE = str(Path(__file__).with_name(os.environ.get("TEST_DEVICE", "fake_device.py")))

if __name__ == "__main__":
    settings = load_settings()
    configure(settings.log_level, settings.log_format)
    name, *options = sys.argv[1:]
    # The device process gets little of the environment.
    options += [f"{key}={value}" for key, value in os.environ.items() if key.startswith("FAKE_")]
    try:
        Node(settings, DeviceProcess([sys.executable, DEVICE, *options]), name).run()
    except DeviceUnavailable as error:
        sys.exit(f"error: {error}")
