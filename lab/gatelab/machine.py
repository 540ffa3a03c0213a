"""The gate computer: a Debian arm64 machine under qemu, its power switch, and what is wired to it.

The relay and lights are outputs of the machine's PL061 GPIO chip, told by qemu as they change; sensors and buttons are its inputs;
the scanner is a USB serial device whose other end is a socket; the guest agent runs commands in it, without any network.
"""
import base64
import contextlib
import fcntl
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import termios
import threading
import time
from pathlib import Path

# Lines of the PL061. Line 3 is the machine's own power key.
OPEN, LIGHT_PASS, LIGHT_DENY, OPEN_OUT = 0, 1, 2, 4
PASSAGE, FIRE_ALARM, EXIT_BUTTON = 5, 6, 7
LEDGER_MIB = 256
PATIENCE_S = 120
BOOT_PATIENCE_S = 300


class LabError(Exception):
    """Something that a promise needs did not happen."""


def wait_for(what, condition, patience_s=PATIENCE_S, pause_s=0.05):
    """What the condition gives, as soon as that is something."""
    end = time.monotonic() + patience_s
    while True:
        if found := condition():
            return found
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {patience_s} s")
        time.sleep(pause_s)


class Lines:
    """Text lines both ways over a qemu socket."""

    def __init__(self, path):
        self.socket = wait_for(f"the socket {path.name}", lambda: self._connect(path), 20)
        self.file = self.socket.makefile("rb")

    @staticmethod
    def _connect(path):
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(path))
            return client
        except OSError:
            client.close()
            return None

    def send(self, text):
        self.socket.sendall(text.encode() + b"\n")

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.file.close()
        self.socket.close()


class Qmp:
    """qemu's own control socket."""

    def __init__(self, path):
        self.lines = Lines(path)
        self.lines.file.readline()
        self.do("qmp_capabilities")

    def do(self, command, **arguments):
        self.lines.send(json.dumps({"execute": command, "arguments": arguments}))
        while True:
            answer = json.loads(self.lines.file.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"qemu: {command}: {answer['error']['desc']}")


class Wires:
    """Every change of the outputs with the time in which it was heard of, and the inputs to set."""

    def __init__(self, path, chip):
        self.chip, self.edges, self.answers = chip, [], queue.Queue()
        self.lines = Lines(path)
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        self._ask(f"irq_intercept_out {chip}")

    def _listen(self):
        with contextlib.suppress(OSError, ValueError):
            for line in self.lines.file:
                heard_at, words = time.monotonic(), line.decode().split()
                if words[0] == "IRQ":
                    self.edges.append((heard_at, int(words[2]), words[1] == "raise"))
                else:
                    self.answers.put(words)

    def _ask(self, *texts):
        self.lines.send("\n".join(texts))
        for text in texts:
            answer = self.answers.get(timeout=PATIENCE_S)
            if answer[0] != "OK":
                raise LabError(f"qtest: {text}: {' '.join(answer)}")

    def set(self, line, *levels):
        """Several levels: one after the other, with no pause in which a busy host could stretch them."""
        self._ask(*(f"set_irq_in {self.chip} unnamed-gpio-in {line} {int(level)}" for level in levels))

    def edges_of(self, line, since=0):
        return [(at, level) for at, number, level in self.edges[since:] if number == line]

    def is_high(self, line):
        edges = self.edges_of(line)
        return bool(edges) and edges[-1][1]

    def openings(self):
        return [at for at, level in self.edges_of(OPEN) if level]

    def wait_high(self, line, level=True, patience_s=PATIENCE_S):
        wait_for(f"line {line} {'high' if level else 'low'}", lambda: self.is_high(line) == level, patience_s, 0.005)

    def pulse_ms(self):
        """The last pulse of the relay."""
        edges = self.edges_of(OPEN)[-2:]
        assert [level for _, level in edges] == [True, False], edges
        return (edges[1][0] - edges[0][0]) * 1000


class Agent:
    """Commands inside the machine."""

    def __init__(self, path):
        self.path, self.lines = path, None

    def answers(self):
        """Whether it does; until the machine is up it does not."""
        if self.lines:
            self.lines.close()
        self.lines = Lines(self.path)
        self.lines.socket.settimeout(3)
        number = time.monotonic_ns() & 0x7FFFFFFF
        try:
            self.lines.send(json.dumps({"execute": "guest-sync", "arguments": {"id": number}}))
            while json.loads(self.lines.file.readline()).get("return") != number:
                pass
        except (OSError, ValueError):
            return False
        self.lines.socket.settimeout(PATIENCE_S)
        return True

    def _do(self, command, **arguments):
        self.lines.send(json.dumps({"execute": command, "arguments": arguments}))
        answer = json.loads(self.lines.file.readline())
        if "error" in answer:
            raise LabError(f"guest agent: {command}: {answer['error']['desc']}")
        return answer["return"]

    def run(self, script, check=True):
        """What a shell script prints."""
        pid = self._do("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})["pid"]
        done = wait_for(script[:60], lambda: (status := self._do("guest-exec-status", pid=pid))["exited"] and status, pause_s=0.1)
        out, err = (base64.b64decode(done.get(key, "")).decode(errors="replace") for key in ("out-data", "err-data"))
        if check and done.get("exitcode") != 0:
            raise LabError(f"{script[:80]!r} ended with {done.get('exitcode')}: {(err or out)[-600:]}")
        return out

    def put(self, path, content):
        handle = self._do("guest-file-open", path=path, mode="w")
        for at in range(0, len(content), 1 << 20):
            self._do("guest-file-write", handle=handle, **{"buf-b64": base64.b64encode(content[at : at + (1 << 20)]).decode()})
        self._do("guest-file-close", handle=handle)


class Machine:
    """One gate computer. Its disks are copies: what happens to them is gone with its folder."""

    def __init__(self, folder, image, root=None, ledger=None):
        self.folder, self.image = Path(folder), Path(image)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.root, self.ledger = self.folder / "root.qcow2", self.folder / "ledger.img"
        base, form = (root, "qcow2") if root else (self.image / "root.img", "raw")
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", str(Path(base).resolve()), str(self.root)], check=True
        )
        if ledger:
            subprocess.run(["cp", "--sparse=always", str(ledger), str(self.ledger)], check=True)
        else:
            subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "ledger", str(self.ledger), f"{LEDGER_MIB}M"], check=True)
        self.process = None

    def _command(self, scanner):
        at = self.folder
        socket_of = lambda name: f"path={at / name},server=on,wait=off"
        command = ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "512"]
        command += ["-accel", "tcg,thread=multi", "-nodefaults", "-no-user-config", "-display", "none"]
        command += ["-kernel", str(self.image / "kernel"), "-initrd", str(self.image / "initrd"), "-dtb", str(self.image / "dtb")]
        command += ["-append", "console=ttyAMA0 net.ifnames=0 quiet systemd.show_status=no panic=-1"]
        command += ["-serial", f"file:{at / 'console'}"]
        for name, form in (("root", "qcow2"), ("ledger", "raw")):
            file = getattr(self, name)
            command += ["-drive", f"file={file},format={form},if=none,id={name},cache=writeback"]
            command += ["-device", f"virtio-blk-pci,drive={name}"]
        command += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,id=nic,romfile="]
        command += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,{socket_of('agent')}"]
        command += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        command += ["-device", "qemu-xhci,id=xhci"]
        for number in (1, 2):
            command += ["-chardev", f"socket,id=scan{number},{socket_of(f'scan{number}')}"]
            if scanner or number == 2:
                command += ["-device", f"usb-serial,chardev=scan{number},id=scanner{number},bus=xhci.0,port={number},always-plugged=on"]
        for name in ("qmp", "qtest"):
            command += [f"-{name}", f"unix:{at / name},server=on,wait=off"]
        return command + ["-qtest-log", "/dev/null"]

    def power_on(self, scanner=True):
        """Switches it on; does not wait for anything in it."""
        for name in ("agent", "scan1", "scan2", "qmp", "qtest"):
            (self.folder / name).unlink(missing_ok=True)
        with open(self.folder / "qemu.log", "ab") as log:
            none = subprocess.DEVNULL
            self.process = subprocess.Popen(self._command(scanner), stdin=none, stdout=log, stderr=log, start_new_session=True)
        self.powered_at = time.monotonic()
        try:
            self.qmp = Qmp(self.folder / "qmp")
        except LabError as error:
            raise LabError(f"qemu does not start: {(self.folder / 'qemu.log').read_text()[-800:]}") from error
        chip = next(child["name"] for child in self.qmp.do("qom-list", path="/machine/unattached") if "pl061" in child["type"])
        self.wires = Wires(self.folder / "qtest", f"/machine/unattached/{chip}")
        self.scanners = [Lines(self.folder / f"scan{number}").socket for number in (1, 2)]
        self.agent = Agent(self.folder / "agent")

    def wait_up(self):
        wait_for("the machine is up", self.agent.answers, BOOT_PATIENCE_S, 0.5)

    def cut_power(self):
        """What was not synced is lost."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self._is_off()

    def power_off(self):
        """As a person would."""
        # On a quick host it is gone before its agent has answered.
        with contextlib.suppress(ConnectionError, ValueError):
            self.agent.run("systemctl poweroff --no-block")
        wait_for("power off", lambda: self.process.poll() is not None, BOOT_PATIENCE_S)
        self._is_off()

    def _is_off(self):
        self.process.wait()
        self.process = None
        # What qemu had told before it was gone counts as seen.
        self.wires.listener.join()
        for lines in (self.qmp.lines, self.wires.lines):
            lines.close()
        for scanner in self.scanners:
            scanner.close()

    def unplug_network(self, away=True):
        self.qmp.do("set_link", name="nic", up=not away)

    def unplug_scanner(self):
        self.qmp.do("device_del", id="scanner1")

    def plug_scanner(self):
        self.qmp.do("device_add", driver="usb-serial", chardev="scan1", id="scanner1", bus="xhci.0", port="1", **{"always-plugged": True})

    def scan(self, code):
        """The first lane's reader sends a code; answers with the time in which its last byte was on the way."""
        self.scanners[0].sendall(code)
        return time.monotonic()

    def has_taken_scans(self):
        """Whether all that was sent has gone over the wire; a machine that does not listen takes a few hundred bytes only."""
        return fcntl.ioctl(self.scanners[0], termios.TIOCOUTQ, bytes(4)) == bytes(4)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.cut_power()
