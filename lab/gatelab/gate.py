"""The gate computer with the program on it, as a technician installs it, and the books to compare."""
import json
import shlex

from . import machine
from .codes import digest
from .machine import LabError, Machine, wait_for

SETTINGS = """\
[gate]
id = "LAB-G01"
station = "LAB"
passenger_interval = "0s"
open_within = "{open_within}"

[[lane]]
name = "in"
mode = "single"
[lane.scanner]
device = "{scanners[0]}"
[lane.turnstile]
driver = "gpio"
chip = "/dev/gpiochip0"
open = 0
light_pass = 1
light_deny = {{ line = 2, active_low = true }}
fire_alarm = 6
exit_button = 7
pulse = "{pulse_ms}ms"
{more}

[[lane]]
name = "out"
mode = "single"
[lane.scanner]
device = "{scanners[1]}"
[lane.turnstile]
driver = "gpio"
chip = "/dev/gpiochip0"
open = "RELAY-OUT"
pulse = "{pulse_ms}ms"

[ride_code]
roots = "roots.toml"

[fare]
scene = "METRO"
body = "地铁代扣"
line_name = "2号线"
flat_fen = 200

[wechat]
base_url = "http://127.0.0.1:8490"
deduct_path = "/deduct"
appid = "wxsandbox"
mch_id = "1900000109"
secret_file = "appsecret"

[upload]
retry_max = "3s"
"""

# Plain HTTP is for this machine only: a proxy on it leads to the WeChat on the host.
PROXY_SOCKET = "[Socket]\nListenStream=127.0.0.1:8490\n[Install]\nWantedBy=sockets.target\n"
PROXY_SERVICE = "[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd 10.0.2.2:{port}\n"

PULSE_MS = 500


class Gate(Machine):
    """A machine on which the program is installed."""

    def __init__(self, lab, name, installed=True):
        golden = lab.folder / "installed"
        disks = {"root": golden / "root.qcow2", "ledger": golden / "ledger.img"} if installed else {}
        super().__init__(lab.folder / name, lab.image, **disks)
        self.lab, self.scanned, self.opened = lab, [], []

    # ---- the technician ------------------------------------------------------------------------------------------------------

    def install(self, package):
        """Installs it, or what is older or newer, over what is there."""
        self.agent.put("/var/tmp/faregate.deb", package.read_bytes())
        self.agent.run("dpkg -i /var/tmp/faregate.deb")

    def restart(self):
        self.agent.run("systemctl restart faregate")
        self.wait_ready()

    def configure(self, more="", pulse_ms=PULSE_MS, open_within="10s"):
        scanners = wait_for("two scanners", lambda: self.two_scanners())
        text = SETTINGS.format(scanners=scanners, pulse_ms=pulse_ms, open_within=open_within, more=more)
        self.agent.run("mkdir -p /etc/faregate")
        self.agent.put("/etc/faregate/faregate.toml", text.encode())
        self.agent.put("/etc/faregate/roots.toml", self.lab.authority.roots_toml().encode())
        self.agent.put("/etc/faregate/appsecret", b"sandbox-secret\n")
        self.agent.put("/etc/systemd/system/wechat.socket", PROXY_SOCKET.encode())
        self.agent.put("/etc/systemd/system/wechat.service", PROXY_SERVICE.format(port=self.lab.wechat.port).encode())
        self.agent.run(
            "chown root:faregate /etc/faregate/*; chmod 640 /etc/faregate/*; chmod 600 /etc/faregate/appsecret;"
            "systemctl daemon-reload; systemctl -q enable --now wechat.socket"
        )

    def two_scanners(self):
        found = self.agent.run("ls /dev/serial/by-id 2>/dev/null", check=False).split()
        return [f"/dev/serial/by-id/{name}" for name in sorted(found)] if len(found) == 2 else None

    # ---- what it says of itself ----------------------------------------------------------------------------------------------

    def faregate(self, *words, check=True):
        return self.agent.run(shlex.join(["faregate", *words]), check)

    def status(self):
        """None while it does not answer."""
        try:
            return json.loads(self.faregate("status", "--json", check=False))
        except ValueError:
            return None

    def rows(self):
        return json.loads(self.faregate("queue", "list", "--limit", "0", "--json"))

    def wait_status(self, what, condition, patience_s=machine.PATIENCE_S):
        return wait_for(what, lambda: (status := self.status()) and condition(status) and status, patience_s, 0.3)

    def wait_ready(self, patience_s=machine.BOOT_PATIENCE_S):
        """Both lanes can open for a code."""
        is_up = lambda lane: lane["scanner"] == "up" and lane["turnstile"] == "ok"
        return self.wait_status("the gate is ready", lambda status: all(map(is_up, status["lanes"])), patience_s)

    def log_if_it_answers(self):
        try:
            return self.agent.run("journalctl -q -u faregate -n 60 --no-pager -o cat", check=False)
        except (OSError, ValueError, LabError) as error:
            return f"no log: {error}"

    # ---- passengers ----------------------------------------------------------------------------------------------------------

    def scan(self, code):
        """When the last byte was sent."""
        self.scanned.append(code)
        return super().scan(code)

    def admit(self, code=None, patience_s=machine.PATIENCE_S):
        """Scans a code of a new passenger, and waits for the open relay: milliseconds from the last byte to it."""
        before = len(self.wires.openings())
        code = code or self.lab.new_code()
        sent_at = self.scan(code)
        wait_for("the relay opens", lambda: len(self.wires.openings()) > before, patience_s, 0.002)
        self.opened.append(code)
        return (self.wires.openings()[before] - sent_at) * 1000

    def wait_closed(self):
        self.wires.wait_high(machine.OPEN, False)

    # ---- the books -----------------------------------------------------------------------------------------------------------

    def wait_drained(self, patience_s=machine.PATIENCE_S):
        """Everything that was recorded has been taken by WeChat or will never be charged."""
        return self.wait_status("the queue is empty", lambda status: status["queue"]["pending"] + status["queue"]["held"] == 0, patience_s)

    def balance(self):
        """Who was let through is charged, exactly once; nobody else but whom the ledger itself names as unconfirmed."""
        charges = {}
        for charge in self.lab.wechat.charges():
            charges.setdefault(charge["code"], []).append(charge)
        scanned, opened = {digest(code) for code in self.scanned}, {digest(code) for code in self.opened}
        twice = [code for code in scanned if len(charges.get(code, [])) > 1]
        missing = [code for code in opened if code not in charges]
        unseen = {charges[code][0]["order"] for code in scanned - opened if code in charges}
        unconfirmed = {row["order"] for row in self.rows() if "opening-unconfirmed" in row["flags"]}
        assert not twice, f"charged twice: {twice}"
        assert not missing, f"let through and not charged: {missing}"
        assert unseen <= unconfirmed, f"charged, not let through, and not marked: {unseen - unconfirmed}"
        return len(opened), len(unseen)
