"""`headcni install`: one line for each thing done; what is to be warned of goes to standard error."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.install import binaries
from reconciler.operate.configure import loader, refused
from reconciler.store import Store


def install(args: Namespace) -> int | Refusal:
    config = loader(args)()
    if not isinstance(config, Config):
        return refused(config)
    loopback = Path(args.loopback) if args.loopback else None
    done = binaries.install(Store(config.state_dir), config.cni_bin_dir, Path(args.plugin), loopback)
    if isinstance(done, Refusal):
        return done
    for each in done:
        if isinstance(each, Refusal):
            print(f"warning: {each}", file=sys.stderr)
        else:
            print(each)
    return 0
