"""What the gate promises on the computer on which it stands: a function each, named as the promise, that answers with what it saw."""
import random
import re
import shutil
import statistics
import subprocess
import time

from . import machine
from .gate import PULSE_MS, Gate
from .machine import EXIT_BUTTON, FIRE_ALARM, LIGHT_DENY, LIGHT_PASS, OPEN, OPEN_OUT, PASSAGE, wait_for

SCANS_OFFLINE = 50


def milliseconds(values):
    return f"{statistics.median(values):.0f} ms (median of {len(values)}), at most {max(values):.0f} ms"


# ---- at first --------------------------------------------------------------------------------------------------------------


def the_package_installs_and_the_first_code_opens(gate):
    gate.install(gate.lab.package)
    gate.configure()
    gate.faregate("check")
    gate.agent.run("systemctl start faregate")
    gate.wait_ready()
    gate.admit()
    gate.wait_closed()
    gate.wait_drained()
    gate.balance()
    return "the settings have no error, lines are found by number and by name, the unit starts, a code opens and is charged"


# ---- one day of a gate -------------------------------------------------------------------------------------------------------


def a_scan_opens_the_relay_for_one_pulse(gate):
    waits_ms, pulses_ms = [], []
    for _ in range(10):
        waits_ms.append(gate.admit())
        gate.wait_closed()
        pulses_ms.append(gate.wires.pulse_ms())
    # An edge that a busy host hears late makes one pulse shorter here, not on the wire.
    assert PULSE_MS - 50 <= statistics.median(pulses_ms) and max(pulses_ms) <= PULSE_MS + 500, pulses_ms
    gate.wires.wait_high(LIGHT_PASS, False)
    inside = gate.status()["scan_to_open_ms"]
    return (
        f"10 of 10 opened; last byte to relay {milliseconds(waits_ms)}, by the program's own count p50 {inside['p50']:.1f} ms; "
        f"pulse of {PULSE_MS} ms: {min(pulses_ms):.0f} to {max(pulses_ms):.0f} ms"
    )


def a_code_that_was_used_is_refused_and_only_the_light_moves(gate):
    code = gate.lab.new_code()
    gate.admit(code)
    gate.wait_closed()
    gate.admit()
    gate.wait_closed()
    before, edges = len(gate.wires.openings()), len(gate.wires.edges)
    gate.scan(code)
    # Active low: the light is on while the line is low.
    wait_for("the deny light", lambda: (False in [level for _, level in gate.wires.edges_of(LIGHT_DENY, edges)]), pause_s=0.005)
    gate.wires.wait_high(LIGHT_DENY)
    assert len(gate.wires.openings()) == before
    return "deny light on and off again (wired active low), relay still"


def the_exit_button_opens_once_a_press(gate):
    before = len(gate.wires.openings())
    gate.wires.set(EXIT_BUTTON, True)
    gate.wires.wait_high(OPEN)
    gate.wait_closed()
    time.sleep(2)
    gate.wires.set(EXIT_BUTTON, False)
    time.sleep(1)
    assert len(gate.wires.openings()) == before + 1
    return f"one pulse of {gate.wires.pulse_ms():.0f} ms for a press of over 2 s, nobody charged"


def a_contact_that_bounces_is_one_press(gate):
    before = len(gate.wires.openings())
    gate.wires.set(EXIT_BUTTON, True, False, True, False, True)
    gate.wires.wait_high(OPEN)
    gate.wait_closed()
    gate.wires.set(EXIT_BUTTON, False, True, False)
    time.sleep(2)
    assert len(gate.wires.openings()) == before + 1
    return "5 edges at a press and 3 at its end opened once"


def alarm_on_and_off(gate):
    edges = len(gate.wires.edges)
    began = time.monotonic()
    gate.wires.set(FIRE_ALARM, True)
    gate.wires.wait_high(OPEN)
    gate.wires.wait_high(OPEN_OUT)
    opened_ms = (max(gate.wires.edges_of(line, edges)[0][0] for line in (OPEN, OPEN_OUT)) - began) * 1000
    time.sleep(3)
    assert gate.wires.is_high(OPEN) and gate.wires.is_high(OPEN_OUT)
    states = [lane["turnstile"] for lane in gate.status()["lanes"]]
    gate.wires.set(FIRE_ALARM, False)
    gate.wires.wait_high(OPEN, False)
    gate.wires.wait_high(OPEN_OUT, False)
    assert states == ["alarm-open"] * 2, states
    return opened_ms


def the_fire_alarm_of_one_lane_holds_every_lane_open(gate):
    opened_ms = alarm_on_and_off(gate)
    gate.admit()
    gate.wait_closed()
    return f"both lanes open after {opened_ms:.0f} ms, held for 3 s, closed with its end; the next code opens"


def a_scanner_that_is_unplugged_comes_back_by_itself(gate):
    gate.unplug_scanner()
    gate.wait_status("the scanner is absent", lambda status: status["lanes"][0]["scanner"] == "absent")
    began = time.monotonic()
    gate.plug_scanner()
    gate.wait_ready()
    took_s = time.monotonic() - began
    gate.admit()
    gate.wait_closed()
    return f"told as absent; ready {took_s:.1f} s after the plug, the next code opens"


def with_the_network_away_everybody_passes_and_is_charged_when_it_is_back(gate):
    gate.wait_drained()
    gate.unplug_network()
    waits_ms = []
    for _ in range(SCANS_OFFLINE):
        waits_ms.append(gate.admit())
        gate.wait_closed()
    waiting = gate.status()["queue"]["pending"]
    assert waiting == SCANS_OFFLINE, waiting
    gate.unplug_network(False)
    began = time.monotonic()
    gate.wait_drained()
    took_s = time.monotonic() - began
    gate.balance()
    opened = f"{SCANS_OFFLINE} of {SCANS_OFFLINE} opened, {milliseconds(waits_ms)}"
    return f"{opened}; all charged once {took_s:.1f} s after the network was back"


def a_clock_that_a_time_server_sets_is_known_as_such_while_somebody_watches(gate):
    is_known = lambda status: status["clock"]["synchronized"]
    is_told = lambda status: any("faregate-clock" in alarm for alarm in status["alarms"])
    gate.wait_status("the clock is synchronized", is_known)
    memory = gate.agent.run("grep VmRSS /proc/$(systemctl show faregate-clock -p MainPID --value)/status")
    gate.agent.run("systemctl kill --signal=STOP faregate-clock")
    began = time.monotonic()
    gate.wait_status("nobody knows of the clock", lambda status: not is_known(status) and is_told(status))
    took_s = time.monotonic() - began
    gate.agent.run("systemctl kill --signal=CONT faregate-clock")
    gate.wait_status("the clock is synchronized again", lambda status: is_known(status) and not is_told(status))
    return f"by systemd-timesyncd; {took_s:.0f} s after the watcher hung told as not known; the watcher takes {memory.split()[1]} KiB"


def a_stop_leaves_the_relay_closed(gate):
    gate.wires.set(FIRE_ALARM, True)
    gate.wires.wait_high(OPEN)
    gate.agent.run("systemctl stop faregate")
    gate.wires.wait_high(OPEN, False)
    gate.wires.wait_high(OPEN_OUT, False)
    gate.wires.set(FIRE_ALARM, False)
    gate.agent.run("systemctl start faregate")
    gate.wait_ready()
    return "stopped while the fire alarm held both lanes open: both closed"


def who_passes_is_charged_and_who_turns_back_is_not(gate):
    gate.wait_drained()
    gate.configure(more='passage = 5\npassage_timeout = "4s"')
    gate.restart()
    gate.admit()
    gate.wait_status("the deduction is held", lambda status: status["queue"]["held"] == 1)
    gate.wires.set(PASSAGE, True)
    time.sleep(0.3)
    gate.wires.set(PASSAGE, False)
    gate.wait_drained()
    gate.balance()
    void = gate.status()["queue"]["void"]
    gate.admit()
    gate.opened.pop()
    gate.wait_status("nobody came", lambda status: status["queue"]["void"] == void + 1)
    gate.wait_drained()
    gate.balance()
    gate.configure()
    gate.restart()
    return "held until the sensor was active, then charged once; without a passage in 4 s void and not charged"


def a_button_that_is_held_is_an_alarm_and_stops_nothing(gate):
    gate.wires.set(EXIT_BUTTON, True)
    is_told = lambda status: any("exit button is held" in alarm for alarm in status["alarms"])
    gate.wait_status("the alarm", is_told)
    gate.admit()
    gate.wait_closed()
    gate.wires.set(EXIT_BUTTON, False)
    gate.wait_status("the alarm is over", lambda status: not is_told(status))
    return "told in status after 1 min, codes open meanwhile, over when let go"


def a_line_that_cannot_be_had_ends_the_start_with_one_sentence(gate):
    told = []
    for change, cause in (
        ("s|^|&|", 'is in use by "faregate"'),
        ("s|gpiochip0|gpiochip9|", "there is no GPIO chip /dev/gpiochip9"),
        ("s|^open = 0|open = 8|", "lines 0 to 7 only"),
        ('s|^open = 0|open = "RELAY-IN"|', "no line of the chip has that name"),
        ("s|/dev/gpiochip0|/dev/null|", "/dev/null cannot be used as a GPIO chip"),
    ):
        said = run_beside(gate, change, "faregate")
        assert cause in said and "code 70" in said, said
        told.append(cause)
    said = run_beside(gate, "s|^|&|", "nobody")
    assert "may not use the GPIO chip" in said and "code 70" in said, said
    said = gate.agent.run("RUNTIME_DIRECTORY=/tmp/second faregate doctor --config /tmp/second/faregate.toml", check=False)
    assert 'turnstile.open: line 0 of /dev/gpiochip0 is in use by "faregate"' in said, said
    return f"{len(told) + 1} causes, each named in one sentence, exit 70; doctor names who holds the line, too"


def run_beside(gate, change, user):
    """A second program with changed settings, a ledger of its own and the same lines."""
    return gate.agent.run(
        f"rm -rf /tmp/second; cp -r /etc/faregate /tmp/second; cd /tmp/second; sed -i '{change}' faregate.toml;"
        "printf '[ledger]\npath = \"ledger.db\"\nmin_free = 0\n' >> faregate.toml;"
        f"chown -R {user} /tmp/second; RUNTIME_DIRECTORY=/tmp/second setpriv --reuid {user} --regid $(id -g {user}) --clear-groups "
        "timeout 60 faregate run --config /tmp/second/faregate.toml 2>&1; echo code $?",
        check=False,
    )


# Last of the day: the file system stays as it is until the next start.
def the_fire_alarm_opens_although_the_ledger_cannot_be_written(gate):
    # As after an error of the disk: the journal is aborted, the file system read-only.
    gate.agent.run("mount -o remount,abort /var/lib/faregate; ! touch /var/lib/faregate/written")
    before = len(gate.wires.openings())
    gate.scan(gate.lab.new_code())
    gate.wait_status("the lanes are out of order", lambda status: any("no code can be admitted" in alarm for alarm in status["alarms"]))
    gate.wires.wait_high(LIGHT_DENY, False)
    assert len(gate.wires.openings()) == before, "opened for a code that could not be recorded"
    opened_ms = alarm_on_and_off(gate)
    gate.wires.set(EXIT_BUTTON, True)
    gate.wires.wait_high(OPEN)
    gate.wait_closed()
    gate.wires.set(EXIT_BUTTON, False)
    return f"no code opens, the deny light is on; the alarm opened both lanes after {opened_ms:.0f} ms, the exit button its own"


# ---- machines of their own ---------------------------------------------------------------------------------------------------


def a_scanner_that_comes_after_the_start_is_taken(lab):
    with Gate(lab, "late-scanner") as gate:
        gate.power_on(scanner=False)
        gate.wait_up()
        gate.wait_status("the program serves without a scanner", lambda status: status["lanes"][0]["scanner"] == "absent")
        began = time.monotonic()
        gate.plug_scanner()
        gate.wait_ready()
        took_s = time.monotonic() - began
        gate.admit()
        gate.wait_closed()
        gate.wait_drained()
        gate.balance()
        return f"serves without; ready {took_s:.1f} s after the plug, the first code opens"


def from_power_to_the_first_passenger(lab):
    with Gate(lab, "boot") as gate:
        gate.power_on()
        code = lab.new_code()

        # A phone that is held before the reader from the beginning on.
        def is_open():
            if not gate.wires.openings() and gate.has_taken_scans():
                gate.scan(code)
            return gate.wires.openings()

        wait_for("somebody is let through", is_open, machine.BOOT_PATIENCE_S, 0.3)
        took_s = gate.wires.openings()[0] - gate.powered_at
        gate.opened.append(code)
        gate.wait_up()
        gate.wait_drained()
        gate.balance()
        started_s = int(gate.agent.run("systemctl show faregate -p ExecMainStartTimestampMonotonic --value")) / 1e6
        return f"{took_s:.1f} s from power to the open relay; systemd had started the program {started_s:.1f} s after the kernel's start"


def an_upgrade_and_a_rollback_keep_the_running_queue(lab):
    with Gate(lab, "upgrade") as gate:
        newer = as_newer_version(lab.package, gate.folder)
        gate.power_on()
        gate.wait_up()
        gate.wait_ready()
        gate.unplug_network()
        took_s = []
        for package in (newer, lab.package):
            for _ in range(5):
                gate.admit()
                gate.wait_closed()
            orders = {row["order"] for row in gate.rows()}
            began = time.monotonic()
            gate.install(package)
            gate.wait_ready()
            took_s.append(time.monotonic() - began)
            assert orders <= {row["order"] for row in gate.rows()}, "a row is gone"
        gate.unplug_network(False)
        gate.wait_drained()
        opened, _ = gate.balance()
        times = " and ".join(f"{took:.0f} s" for took in took_s)
        return f"{opened} deductions waited through both and were charged once; ready again {times} after the start of dpkg"


def as_newer_version(package, folder):
    """The same package under a higher version."""
    tree, newer = folder / "newer", folder / "newer.deb"
    subprocess.run(["dpkg-deb", "-R", str(package), str(tree)], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"^(Version: .*)$", r"\1+lab1", control.read_text(), flags=re.MULTILINE))
    subprocess.run(["dpkg-deb", "-b", "--root-owner-group", str(tree), str(newer)], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return newer


def whatever_the_power_does_each_passage_is_charged_exactly_once(lab, cuts=20, seed=None):
    seed = seed if seed is not None else random.randrange(10**6)
    chance = random.Random(seed)
    with Gate(lab, "cuts") as gate:
        for number in range(cuts):
            life_until_cut(gate, chance, number)
            print(f"   cut {number + 1} of {cuts}: {len(gate.opened)} openings so far", flush=True)
        gate.power_on()
        gate.wait_up()
        gate.wait_ready()
        gate.wait_drained(300)
        opened, unseen = gate.balance()
        integrity = gate.agent.run("systemctl stop faregate; e2fsck -fn /dev/vdb >/dev/null; echo $?").strip()
        return (
            f"{cuts} cuts (seed {seed}), {len(gate.scanned)} scans, {opened} openings seen, each charged once; "
            f"{unseen} recorded without a seen opening are charged and marked; file system check {integrity}"
        )


def life_until_cut(gate, chance, number):
    """Boot, passengers with and without a network, and the power gone in the midst of it."""
    gate.power_on()
    if number % 5 == 4:
        time.sleep(chance.uniform(1, 40))
        return gate.cut_power()
    gate.wait_up()
    gate.unplug_network(chance.random() < 0.6)
    gate.wait_ready()
    in_doubt, before = None, 0
    end = time.monotonic() + chance.uniform(0, 8)
    while time.monotonic() < end:
        code = gate.lab.new_code()
        before = len(gate.wires.openings())
        gate.scan(code)
        while time.monotonic() < end and len(gate.wires.openings()) == before:
            time.sleep(0.001)
        in_doubt = code if len(gate.wires.openings()) == before else gate.opened.append(code)
        while time.monotonic() < end and gate.wires.is_high(OPEN):
            time.sleep(0.001)
    gate.cut_power()
    if in_doubt and len(gate.wires.openings()) > before:
        gate.opened.append(in_doubt)


DAY = [
    a_scan_opens_the_relay_for_one_pulse,
    a_code_that_was_used_is_refused_and_only_the_light_moves,
    the_exit_button_opens_once_a_press,
    a_contact_that_bounces_is_one_press,
    the_fire_alarm_of_one_lane_holds_every_lane_open,
    a_scanner_that_is_unplugged_comes_back_by_itself,
    with_the_network_away_everybody_passes_and_is_charged_when_it_is_back,
    who_passes_is_charged_and_who_turns_back_is_not,
    a_button_that_is_held_is_an_alarm_and_stops_nothing,
    a_line_that_cannot_be_had_ends_the_start_with_one_sentence,
    a_clock_that_a_time_server_sets_is_known_as_such_while_somebody_watches,
    a_stop_leaves_the_relay_closed,
    the_fire_alarm_opens_although_the_ledger_cannot_be_written,
]
OWN_MACHINE = [
    from_power_to_the_first_passenger,
    whatever_the_power_does_each_passage_is_charged_exactly_once,
    an_upgrade_and_a_rollback_keep_the_running_queue,
    a_scanner_that_comes_after_the_start_is_taken,
]
