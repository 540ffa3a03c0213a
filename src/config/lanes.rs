//! `[[lane]]`: readers and turnstiles. Nothing here opens a device.

use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::{
    Driver, Encoding, Format, Framing, Gpio, Inputs, Lane, Line, LineId, Mode, NoPassage, Scanner, Settings, Turnstile,
    files::Places,
    limits::{
        BAUD_DEFAULT, BAUD_WARN_BELOW, DEBOUNCE, IDLE_GAP, LANES_MAX, LINE_OFFSET, NAME_CHARS_MAX, PASSAGE_TIMEOUT, PULSE,
        PULSE_GAP, START_BYTES_MAX,
    },
    reader::{Element, Section},
    report::{Report, Unique},
    schema,
    values::{Choices, Parsed, Reject, baud, boolean, choice, file_name, hex_bytes, id, label, text, unexpected, whole},
};

const MODES: Choices<Mode> = &[("single", Mode::Single), ("entry", Mode::Entry), ("exit", Mode::Exit), ("both", Mode::Both)];
const FRAMINGS: Choices<Framing> =
    &[("ride-code", Framing::RideCode), ("line", Framing::Line), ("stx", Framing::Stx), ("idle", Framing::Idle)];
/// How bytes are written, by a reader or in a key file.
pub(super) const ENCODINGS: Choices<Encoding> = &[("raw", Encoding::Raw), ("base64", Encoding::Base64), ("hex", Encoding::Hex)];
const DRIVERS: Choices<DriverName> = &[("gpio", DriverName::Gpio), ("simulated", DriverName::Simulated)];
const NO_PASSAGES: Choices<NoPassage> = &[("void", NoPassage::Void), ("charge", NoPassage::Charge)];

const LANE_NAME: Unique = Unique { what: "the name of a lane", mend: "give each lane a name of its own" };
const SCANNER_DEVICE: Unique = Unique { what: "the device of a scanner", mend: "give each lane a reader of its own" };
const GPIO_LINE: Unique = Unique { what: "in use", mend: "use each line of a chip once" };
const INPUTS_FIFO: Unique = Unique { what: "the FIFO of a lane's inputs", mend: "give each lane a FIFO of its own" };

#[derive(Debug, Clone, Copy)]
enum DriverName {
    Gpio,
    Simulated,
}

/// The modes of all lanes as far as they are known: a question that an invalid mode could decide has no answer.
#[derive(Debug, Default)]
pub(super) struct Modes(Vec<Option<Mode>>);

impl Modes {
    /// Whether some lane has one of these modes.
    pub(super) fn any_of(&self, modes: &[Mode]) -> Option<bool> {
        if self.0.iter().flatten().any(|mode| modes.contains(mode)) {
            return Some(true);
        }
        if self.0.is_empty() || self.0.contains(&None) { None } else { Some(false) }
    }
}

/// All lanes; `None` when one of them cannot be had.
pub(super) fn lanes(root: &mut Section<'_, '_>, gate_station: Option<&str>, places: Places<'_>) -> (Option<Vec<Lane>>, Modes) {
    let elements = root.required_elements("lane");
    if elements.len() > LANES_MAX {
        root.error("lane", format!("has {} lanes", elements.len()), format!("use 1 to {LANES_MAX}"));
    }
    let mut names = Vec::new();
    let mut modes = Vec::new();
    let mut lanes = Vec::new();
    for (position, element) in elements.iter().enumerate() {
        let mut section = root.element(path(position, element, &mut names), element, schema::LANE);
        let mode = section.required("mode", choice(MODES));
        modes.push(mode);
        lanes.push(lane(&mut section, mode, gate_station, places));
    }
    (lanes.into_iter().collect(), Modes(modes))
}

/// `lane[in]`; by position when the lane has no usable name, or one that is taken.
fn path(position: usize, element: &Element<'_>, names: &mut Vec<String>) -> String {
    let name = element.value.as_table().and_then(|table| table.get("name")).and_then(|name| name.get_ref().as_str());
    let usable = name.and_then(|name| label(NAME_CHARS_MAX)(name).ok()).filter(|name| !names.contains(name));
    let path = usable.as_ref().map_or_else(|| format!("lane[{position}]"), |name| format!("lane[{name}]"));
    names.extend(usable);
    path
}

fn lane(lane: &mut Section<'_, '_>, mode: Option<Mode>, gate_station: Option<&str>, places: Places<'_>) -> Option<Lane> {
    let name = lane.required("name", text(label(NAME_CHARS_MAX)));
    if let Some(name) = &name {
        lane.claim("name", &LANE_NAME, name);
    }
    let station = if lane.has("station") { lane.optional("station", text(id)) } else { gate_station.map(str::to_owned) };
    let scanner = scanner(&mut lane.table("scanner", schema::SCANNER), places);
    let turnstile = turnstile(&mut lane.table("turnstile", schema::TURNSTILE), places);
    Some(Lane { name: name?, mode: mode?, station: station?, scanner: scanner?, turnstile: turnstile? })
}

fn scanner(scanner: &mut Section<'_, '_>, places: Places<'_>) -> Option<Scanner> {
    let device = scanner.required("device", text(|name| file_name(name).map(|name| places.path(name))));
    if let Some(device) = &device {
        scanner.claim("device", &SCANNER_DEVICE, &plain(device));
    }
    let baud = scanner.or("baud", BAUD_DEFAULT, baud);
    if let Some(slow) = baud.filter(|baud| *baud < BAUD_WARN_BELOW) {
        let problem = format!("at {slow} baud a code takes {} ms to arrive", code_ms(slow));
        scanner.warn("baud", problem, format!("set reader and baud to 115200, or to {BAUD_WARN_BELOW} at least"));
    }
    let framing = scanner.or("framing", Framing::RideCode, choice(FRAMINGS));
    let encoding = scanner.or("encoding", Encoding::Raw, choice(ENCODINGS));
    if framing == Some(Framing::RideCode) && encoding.is_some_and(|encoding| encoding != Encoding::Raw) {
        let mend = "use encoding \"raw\", or the framing that the reader has, such as \"line\"";
        scanner.error("encoding", "framing \"ride-code\" finds codes by their own bytes only", mend);
    }
    let idle_gap = scanner.duration("idle_gap", IDLE_GAP);
    let start_bytes = scanner.or("start_bytes", Vec::new(), text(hex_bytes(START_BYTES_MAX)));
    Some(Scanner {
        device: device?,
        baud: baud?,
        framing: framing?,
        encoding: encoding?,
        idle_gap: idle_gap?,
        start_bytes: start_bytes?,
    })
}

/// A JT/T 1179 code is binary and holds line ends of its own: a reader that sends it raw must not be read line by line.
pub(super) fn warn_of_cut_codes(settings: &Settings, report: &mut Report) {
    let is_binary = matches!(settings.ride_code.format, Format::Jtt1179 { .. });
    let is_cut = |scanner: &Scanner| scanner.framing == Framing::Line && scanner.encoding == Encoding::Raw;
    for lane in settings.lanes.iter().filter(|lane| is_binary && is_cut(&lane.scanner)) {
        let problem = "raw ride codes hold line ends of their own, which \"line\" takes for the end of the code";
        let mend = "use framing \"ride-code\", or let the reader write base64 or hex and set encoding";
        report.warn(&format!("lane[{}].scanner.framing", lane.name), problem, mend);
    }
}

/// How long a typical ride code of 343 bytes is on the wire, 10 bits a byte.
fn code_ms(baud: u32) -> u32 {
    343 * 10 * 1000 / baud
}

fn turnstile(turnstile: &mut Section<'_, '_>, places: Places<'_>) -> Option<Turnstile> {
    let driver_and_inputs = match turnstile.required("driver", choice(DRIVERS)) {
        Some(DriverName::Gpio) => gpio(turnstile, places).map(|gpio| (Driver::Gpio(Box::new(gpio.0)), gpio.1)),
        Some(DriverName::Simulated) => Some(simulated(turnstile, places)),
        None => None,
    };
    let pulse = turnstile.duration("pulse", PULSE);
    let pulse_gap = turnstile.duration("pulse_gap", PULSE_GAP);
    let passage_timeout = turnstile.duration("passage_timeout", PASSAGE_TIMEOUT);
    let no_passage = turnstile.or("no_passage", NoPassage::Void, choice(NO_PASSAGES));
    let ends_early = pulse.zip(passage_timeout).is_some_and(|(pulse, timeout)| pulse > timeout);
    if ends_early && turnstile.value("passage").is_some() {
        let problem = "ends while the turnstile is still open: who passes then is taken for an intruder and rides for nothing";
        turnstile.error("passage_timeout", problem, "make it longer than pulse");
    }
    let (driver, inputs) = driver_and_inputs?;
    Some(Turnstile {
        driver,
        pulse: pulse?,
        pulse_gap: pulse_gap?,
        passage_timeout: passage_timeout?,
        no_passage: no_passage?,
        inputs,
    })
}

/// Lines and chip are allowed beside this driver, so that a lane can be tried without its hardware, and not looked at.
fn simulated(turnstile: &mut Section<'_, '_>, places: Places<'_>) -> (Driver, Inputs) {
    let file = || text(|name: &str| file_name(name).map(|name| places.path(name)));
    let trace = turnstile.optional("trace", file());
    let fifo = turnstile.optional("inputs", file());
    if let Some(fifo) = &fifo {
        turnstile.claim("inputs", &INPUTS_FIFO, &plain(fifo));
    }
    let mut is_present = |key| turnstile.optional(key, presence).is_some();
    let inputs =
        Inputs { passage: is_present("passage"), fire_alarm: is_present("fire_alarm"), exit_button: is_present("exit_button") };
    (Driver::Simulated { trace, inputs: fifo }, inputs)
}

/// A simulated input has no line: any value that could name one tells that it exists.
fn presence(value: &DeValue<'_>) -> Parsed<()> {
    match value {
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Table(_) | DeValue::Boolean(true) => Ok(()),
        DeValue::Boolean(false) => {
            Err(Reject { problem: "is false, but an input exists when its key is present".into(), mend: "remove the key".into() })
        }
        _ => Err(unexpected(value, LINE_FORM)),
    }
}

fn gpio(turnstile: &mut Section<'_, '_>, places: Places<'_>) -> Option<(Gpio, Inputs)> {
    for key in ["trace", "inputs"].into_iter().filter(|key| turnstile.has(key)).collect::<Vec<_>>() {
        turnstile.value(key);
        turnstile.error(key, "is for driver \"simulated\" only", "remove it");
    }
    let chip = turnstile.required("chip", text(|name| file_name(name).map(|name| places.path(name))));
    turnstile.require("open");
    let mut line = |key| line(turnstile, key, chip.as_deref());
    let open = line("open");
    let (light_pass, light_deny, buzzer) = (line("light_pass"), line("light_deny"), line("buzzer"));
    let (passage, fire_alarm, exit_button) = (line("passage"), line("fire_alarm"), line("exit_button"));
    let inputs = Inputs { passage: passage.is_some(), fire_alarm: fire_alarm.is_some(), exit_button: exit_button.is_some() };
    let debounce = turnstile.duration("debounce", DEBOUNCE)?;
    Some((Gpio { chip: chip?, open: open?, light_pass, light_deny, buzzer, passage, fire_alarm, exit_button, debounce }, inputs))
}

const LINE_FORM: &str = "a line's offset, its name in double quotes, or { line = 17, active_low = true }";

/// The line at `key`, which no other key may use on the same chip.
fn line(turnstile: &mut Section<'_, '_>, key: &str, chip: Option<&Path>) -> Option<Line> {
    let line = if turnstile.value(key)?.is_table() {
        let mut table = turnstile.table(key, schema::LINE);
        let id = table.required("line", line_id);
        let active_low = table.or("active_low", false, boolean);
        Line { id: id?, active_low: active_low? }
    } else {
        Line { id: turnstile.optional(key, line_id)?, active_low: false }
    };
    if let Some(chip) = chip {
        turnstile.claim(key, &GPIO_LINE, &claimed_line(chip, &line.id));
    }
    Some(line)
}

fn line_id(value: &DeValue<'_>) -> Parsed<LineId> {
    match value {
        DeValue::Integer(_) => whole(LINE_OFFSET)(value).map(LineId::Offset),
        DeValue::String(name) => label(NAME_CHARS_MAX)(name).map(LineId::Name),
        _ => Err(unexpected(value, LINE_FORM)),
    }
}

fn claimed_line(chip: &Path, id: &LineId) -> String {
    match id {
        LineId::Offset(offset) => format!("{} line {offset}", plain(chip)),
        LineId::Name(name) => format!("{} line {name:?}", plain(chip)),
    }
}

/// Without repeated slashes and dots, so that one file has one name.
fn plain(path: &Path) -> String {
    path.components().collect::<PathBuf>().to_string_lossy().into_owned()
}
