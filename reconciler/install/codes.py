"""Everything that can be wrong with what HeadCNI puts on the host, by number, with its remedy.

They continue the numbers of `reconciler.kube.codes` and never change their meaning once released; `docs/errors.md` is
printed from all of them.
"""

from __future__ import annotations

from enum import IntEnum


class Trouble(IntEnum):
    BIN_DIR = 200
    PLUGIN_FILE = 201
    CONF_DIR = 202
    TEMPLATE = 203
    SECOND_INSTALLATION = 204
    CONFLIST_FIGHT = 205
    SET_ASIDE = 206
    INSTALL_RECORD = 207
    DOWNGRADE = 208


REMEDIES: dict[Trouble, tuple[str, str]] = {
    Trouble.BIN_DIR: (
        "the directory of the runtime's plugins is missing, or cannot be written",
        "the message names it; create it, mount it writable, free space, or name another with cni.binDir",
    ),
    Trouble.PLUGIN_FILE: (
        "the file that was to be installed cannot be read, or does not run on this node; nothing was replaced",
        "install the one that was built for this machine; the message says why it does not run",
    ),
    Trouble.CONF_DIR: (
        "the directory of the runtime's network configurations is missing, or cannot be written",
        "the message names it; create it, mount it writable, free space, or name another with cni.confDir",
    ),
    Trouble.TEMPLATE: (
        "the template of the network configuration cannot be used, so none is written; one that is there stays",
        "correct cni.template at the place that the message names",
    ),
    Trouble.SECOND_INSTALLATION: (
        "another network configuration of HeadCNI is in the same directory, so this daemon writes none",
        "a node has one HeadCNI: uninstall the other, or remove the file that is not wanted",
    ),
    Trouble.CONFLIST_FIGHT: (
        "somebody undoes what HeadCNI does in the directory of network configurations, again and again",
        "find the program that does, often another CNI plugin's daemon; HeadCNI tries again after ten minutes of peace",
    ),
    Trouble.SET_ASIDE: (
        "a file of somebody else is in the way and cannot be set aside, or cannot come back",
        "look at both files that the message names, and remove the one that is not wanted",
    ),
    Trouble.INSTALL_RECORD: (
        "the record of what was installed cannot be read or written",
        "the message names it and why; of a newer version it is left alone, and that version must uninstall",
    ),
    Trouble.DOWNGRADE: (
        "a newer version was installed here, and wrote files that this one cannot read",
        "nothing is lost: such files are left alone, and the newer version reads them when it is back",
    ),
}
