//! Puts the settings together: the small tables, and what one table asks of another.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{
    AtLimit, Deny, Exposure, Fare, Format, Gate, Ledger, Mode, OpaquePassenger, RideCode, SameStation, Scene, Settings,
    UnfinishedEntry, UnmatchedExit, UnsynchronizedClock, fares,
    files::{self, Places},
    finding::Finding,
    lanes::{Modes, lanes},
    limits::{
        CLOCK_OFFSET, CLOCK_TOLERANCE, DISCOUNT_PERCENT, DUPLICATE_WINDOW, FARE_FEN, FARES_BYTES_MAX, GATE_FEN, KEEP, KEEP_DENIED,
        MAX_JOURNEY, MIN_FREE_BYTES, OLDEST, OPAQUE_BYTES_MAX, OPAQUE_LENGTH, OPAQUE_OFFSET, OPEN_WITHIN, PASSENGER_COUNT,
        PASSENGER_FEN, PASSENGER_INTERVAL, REENTRY_WITHIN, ROOTS_BYTES_MAX, SAME_STATION_WITHIN, TEXT_CHARS_MAX,
    },
    network::{callback, monitor, upload, wechat},
    reader::Section,
    report::{Report, quoted},
    roots, schema,
    values::{
        Choices, Parsed, boolean, choice, clock_offset_seconds, duration, file_name, id, label, reject, size, text, unexpected,
        whole,
    },
};

const FORMATS: Choices<FormatName> = &[("jtt1179", FormatName::Jtt1179), ("opaque", FormatName::Opaque)];
const UNSYNCHRONIZED_CLOCKS: Choices<UnsynchronizedClock> =
    &[("accept", UnsynchronizedClock::Accept), ("deny", UnsynchronizedClock::Deny)];
const WHOLE: Choices<OpaquePassenger> = &[("whole", OpaquePassenger::Whole)];
const SCENES: Choices<Scene> = &[("METRO", Scene::Metro), ("BUS", Scene::Bus)];
const UNMATCHED_EXITS: Choices<UnmatchedExit> =
    &[("hold", UnmatchedExit::Hold), ("charge-max", UnmatchedExit::ChargeMax), ("deny", UnmatchedExit::Deny)];
const UNFINISHED_ENTRIES: Choices<UnfinishedEntry> = &[("void", UnfinishedEntry::Void), ("charge-max", UnfinishedEntry::ChargeMax)];
const AT_LIMITS: Choices<AtLimit> = &[("alarm", AtLimit::Alarm), ("deny", AtLimit::Deny)];

const LEDGER_PATH: &str = "/var/lib/faregate/ledger.db";
/// Modes in which a passenger's taps are brought together.
const JOURNEY_MODES: &[Mode] = &[Mode::Entry, Mode::Exit, Mode::Both];

/// What became of a file's text.
type Read<T> = Result<T, Vec<Finding>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FormatName {
    Jtt1179,
    Opaque,
}

/// The settings, `None` when a part of them cannot be had. What else is wrong is in the report.
pub(super) fn settings(document: &DeTable<'_>, places: Places<'_>, report: &mut Report) -> Option<Settings> {
    let mut root = Section::root(document, schema::ROOT, report);
    let GateParts { id, station, gate } = gate(&mut root.table("gate", schema::GATE));
    let (lanes, modes) = lanes(&mut root, station.as_deref(), places);
    let ride_code = ride_code(&mut root.table("ride_code", schema::RIDE_CODE), &modes, places);
    let fare = fare(&mut root.table("fare", schema::FARE), &modes, places);
    let ledger = ledger(&mut root.table("ledger", schema::LEDGER), places);
    let wechat = wechat(&mut root.table("wechat", schema::WECHAT), places);
    let upload = upload(&mut root.table("upload", schema::UPLOAD));
    let callback =
        root.existing_table("callback", schema::CALLBACK).and_then(|mut table| callback(&mut table, id.as_deref(), places));
    let exposure = root.existing_table("exposure", schema::EXPOSURE).and_then(|mut table| exposure(&mut table));
    let deny =
        root.existing_table("deny", schema::DENY).map_or_else(|| Some(Deny::default()), |mut table| deny(&mut table, places));
    let monitor = root.existing_table("monitor", schema::MONITOR).and_then(|mut table| monitor(&mut table));
    Some(Settings {
        gate: gate?,
        lanes: lanes?,
        ride_code: ride_code?,
        fare: fare?,
        ledger: ledger?,
        wechat: wechat?,
        upload: upload?,
        callback,
        exposure,
        deny: deny?,
        monitor,
    })
}

/// The gate, and what other tables need of it even if the rest of it is wrong.
#[derive(Debug)]
struct GateParts {
    id: Option<String>,
    station: Option<String>,
    gate: Option<Gate>,
}

fn gate(gate: &mut Section<'_, '_>) -> GateParts {
    let parts = (gate.required("id", text(id)), gate.required("station", text(id)));
    let duplicate_window = gate.duration("duplicate_window", DUPLICATE_WINDOW);
    let passenger_interval = gate.duration("passenger_interval", PASSENGER_INTERVAL);
    let open_within = gate.duration("open_within", OPEN_WITHIN);
    let complete = |(id, station): (Option<String>, Option<String>)| {
        Some(Gate {
            id: id?,
            station: station?,
            duplicate_window: duplicate_window?,
            passenger_interval: passenger_interval?,
            open_within: open_within?,
        })
    };
    let gate = complete(parts.clone());
    GateParts { id: parts.0, station: parts.1, gate }
}

fn ride_code(ride_code: &mut Section<'_, '_>, modes: &Modes, places: Places<'_>) -> Option<RideCode> {
    let format = format(ride_code, modes, places);
    let clock_tolerance = ride_code.duration("clock_tolerance", CLOCK_TOLERANCE);
    let unsynchronized_clock = ride_code.or("unsynchronized_clock", UnsynchronizedClock::Accept, choice(UNSYNCHRONIZED_CLOCKS));
    let issuer_clock_offset_seconds = ride_code.entries("issuer_clock_offset", issuer_clock_offset);
    Some(RideCode {
        format: format?,
        clock_tolerance: clock_tolerance?,
        unsynchronized_clock: unsynchronized_clock?,
        issuer_clock_offset_seconds,
    })
}

fn format(ride_code: &mut Section<'_, '_>, modes: &Modes, places: Places<'_>) -> Option<Format> {
    let name = ride_code.or("format", FormatName::Jtt1179, choice(FORMATS));
    if name == Some(FormatName::Jtt1179) {
        ride_code.require("roots");
    }
    let roots = ride_code.optional("roots", text(|name| file_name(name).map(|name| places.path(name))));
    let passenger = opaque_passenger(ride_code);
    match name? {
        FormatName::Jtt1179 => {
            let roots = roots?;
            if places.are_checked() {
                check_file(ride_code, "roots", &roots, ROOTS_BYTES_MAX, roots::parse);
            }
            Some(Format::Jtt1179 { roots })
        }
        FormatName::Opaque => {
            if passenger == Some(OpaquePassenger::Whole) && modes.any_of(JOURNEY_MODES) == Some(true) {
                let problem =
                    "with \"whole\" every code is a passenger of its own: entry, exit and both cannot bring taps together";
                ride_code.error(
                    "opaque_passenger",
                    problem,
                    "name the bytes, as in { offset = 0, length = 16 }, or use mode single",
                );
            }
            passenger.map(|passenger| Format::Opaque { passenger })
        }
    }
}

/// Reads a file that has lines and findings of its own; one that cannot be had is reported at the key that names it.
fn check_file<T>(section: &mut Section<'_, '_>, key: &str, path: &Path, max_bytes: u64, parse: impl Fn(&str, &Path) -> Read<T>) {
    match files::read_text(path, max_bytes) {
        Ok(text) => section.extend(parse(&text, path).err().unwrap_or_default()),
        Err(error) => section.error(key, error.to_string(), error.mend()),
    }
}

fn opaque_passenger(ride_code: &mut Section<'_, '_>) -> Option<OpaquePassenger> {
    let key = "opaque_passenger";
    if !ride_code.value(key).is_some_and(DeValue::is_table) {
        return ride_code.or(key, OpaquePassenger::Whole, |value| {
            if value.is_str() { choice(WHOLE)(value) } else { Err(unexpected(value, "\"whole\" or { offset = 0, length = 16 }")) }
        });
    }
    let mut table = ride_code.table(key, schema::OPAQUE_PASSENGER);
    let offset = table.required("offset", whole(OPAQUE_OFFSET));
    let length = table.required("length", whole(OPAQUE_LENGTH));
    let (offset, length) = (offset?, length?);
    if offset + length > OPAQUE_BYTES_MAX {
        table.error(
            "length",
            "ends after the longest code",
            format!("use at most {OPAQUE_BYTES_MAX} for offset and length together"),
        );
    }
    Some(OpaquePassenger::Slice { offset, length })
}

fn issuer_clock_offset(issuer: &str, value: &DeValue<'_>) -> Parsed<(String, i64)> {
    if issuer.len() != 8 || !issuer.bytes().all(|byte| byte.is_ascii_digit()) {
        return reject(
            format!("{} is not an issuer code", quoted(issuer)),
            "write its 8 digits in double quotes, as in \"03664530\"",
        );
    }
    let seconds = text(|offset: &str| clock_offset_seconds(offset, CLOCK_OFFSET))(value)?;
    Ok((issuer.to_owned(), seconds))
}

fn fare(fare: &mut Section<'_, '_>, modes: &Modes, places: Places<'_>) -> Option<Fare> {
    let scene = fare.required("scene", choice(SCENES));
    let body = fare.required("body", text(label(TEXT_CHARS_MAX)));
    let line_name = fare.required("line_name", text(label(TEXT_CHARS_MAX)));
    let flat_fen = fare.required("flat_fen", whole(FARE_FEN));
    if modes.any_of(JOURNEY_MODES) == Some(true) {
        fare.require("max_fen");
    }
    let max_fen = fare.optional("max_fen", whole(FARE_FEN));
    let discount_percent = fare.whole("discount_percent", DISCOUNT_PERCENT);
    let table = fare_table(fare, places);
    let max_journey = fare.duration("max_journey", MAX_JOURNEY);
    let reentry_within = fare.duration("reentry_within", REENTRY_WITHIN);
    let unmatched_exit = unmatched_exit(fare, modes);
    let unfinished_entry = unfinished_entry(fare, modes);
    let same_station = same_station(fare);
    Some(Fare {
        scene: scene?,
        body: body?,
        line_name: line_name?,
        flat_fen: flat_fen?,
        max_fen,
        discount_percent: discount_percent?,
        table,
        max_journey: max_journey?,
        reentry_within: reentry_within?,
        unmatched_exit: unmatched_exit?,
        unfinished_entry: unfinished_entry?,
        same_station,
    })
}

fn fare_table(fare: &mut Section<'_, '_>, places: Places<'_>) -> Option<PathBuf> {
    let path = fare.optional("table", text(|name| file_name(name).map(|name| places.path(name))))?;
    if places.are_checked() {
        check_file(fare, "table", &path, FARES_BYTES_MAX, fares::parse);
    }
    Some(path)
}

fn unmatched_exit(fare: &mut Section<'_, '_>, modes: &Modes) -> Option<UnmatchedExit> {
    let unmatched_exit = fare.or("unmatched_exit", UnmatchedExit::Hold, choice(UNMATCHED_EXITS))?;
    if unmatched_exit == UnmatchedExit::ChargeMax && modes.any_of(&[Mode::Entry, Mode::Both]) == Some(false) {
        let problem = "\"charge-max\" would charge everybody: no lane here sees an entry";
        fare.error("unmatched_exit", problem, "use \"hold\" or \"deny\", or add a lane with mode entry or both");
    }
    Some(unmatched_exit)
}

fn unfinished_entry(fare: &mut Section<'_, '_>, modes: &Modes) -> Option<UnfinishedEntry> {
    let unfinished_entry = fare.or("unfinished_entry", UnfinishedEntry::Void, choice(UNFINISHED_ENTRIES))?;
    if unfinished_entry == UnfinishedEntry::ChargeMax && modes.any_of(&[Mode::Exit, Mode::Both]) == Some(false) {
        let problem = "\"charge-max\" would charge everybody: no lane here sees an exit";
        fare.error("unfinished_entry", problem, "use \"void\", or add a lane with mode exit or both");
    }
    Some(unfinished_entry)
}

fn same_station(fare: &mut Section<'_, '_>) -> Option<SameStation> {
    let mut table = fare.existing_table("same_station", schema::SAME_STATION)?;
    let within = table.required("within", duration(SAME_STATION_WITHIN));
    let fen = table.required("fen", whole(FARE_FEN));
    Some(SameStation { within: within?, fen: fen? })
}

fn ledger(ledger: &mut Section<'_, '_>, places: Places<'_>) -> Option<Ledger> {
    let path = ledger.or("path", PathBuf::from(LEDGER_PATH), text(|name| file_name(name).map(|name| places.path(name))));
    let min_free_bytes = ledger.or("min_free", MIN_FREE_BYTES.default, size(MIN_FREE_BYTES.bounds));
    let keep = ledger.duration("keep", KEEP);
    let keep_denied = ledger.duration("keep_denied", KEEP_DENIED);
    Some(Ledger { path: path?, min_free_bytes: min_free_bytes?, keep: keep?, keep_denied: keep_denied? })
}

fn exposure(exposure: &mut Section<'_, '_>) -> Option<Exposure> {
    let passenger_count = exposure.whole("passenger_count", PASSENGER_COUNT);
    let passenger_fen = exposure.whole("passenger_fen", PASSENGER_FEN);
    let gate_fen = exposure.whole("gate_fen", GATE_FEN);
    let oldest = exposure.duration("oldest", OLDEST);
    let at_limit = exposure.or("at_limit", AtLimit::Alarm, choice(AT_LIMITS));
    Some(Exposure {
        passenger_count: passenger_count?,
        passenger_fen: passenger_fen?,
        gate_fen: gate_fen?,
        oldest: oldest?,
        at_limit: at_limit?,
    })
}

fn deny(deny: &mut Section<'_, '_>, places: Places<'_>) -> Option<Deny> {
    let file = deny.optional("file", text(|name| file_name(name).map(|name| places.path(name))));
    Some(Deny { file, unpaid: deny.or("unpaid", false, boolean)? })
}

/// What of `[deny]` has no effect beside the other settings.
pub(super) fn warn_of_idle_denials(settings: &Settings, report: &mut Report) {
    if settings.deny.file.is_some() && matches!(settings.ride_code.format, Format::Opaque { .. }) {
        let problem = "an opaque code tells no card account number, so nobody is refused because of this list";
        report.warn("deny.file", problem, "remove it, or use ride_code.format = \"jtt1179\"");
    }
    if settings.deny.unpaid && settings.callback.is_none() {
        let problem = "nothing ever becomes unpaid without [callback], so nobody is refused because of it";
        report.warn("deny.unpaid", problem, "remove it, or add the table [callback]");
    }
}
