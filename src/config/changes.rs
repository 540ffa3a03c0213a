//! What a reload makes of changed settings: which keys are other than before, and which of them hold at once.
//!
//! Every field of every table is named here, and the compiler sees to it that none is forgotten: a new setting has to be given its
//! [`Takes`]. Values are compared, not texts: a default that is written out is no change. The content of the files that the settings
//! name is not looked at.

use std::fmt;

use super::{
    Auth, Callback, Deny, Driver, Exposure, Fare, Format, Gate, Gpio, Inputs, Lane, Ledger, Monitor, RideCode, Scanner, Settings,
    Sign, Turnstile, Upload, WeChat,
};

/// What a changed setting needs before it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// The trusted roots have to be read.
    Roots,
    /// The rules by which taps are judged have to be made anew: fares, windows and limits.
    Rules,
    /// The daemon has to be started again.
    Restart,
}

/// A setting that is other than it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, as in a [`super::Finding`].
    pub key: String,
    /// What it needs.
    pub takes: Takes,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)
    }
}

/// Everything in which `new` is other than `running`, in the order of the settings file. What takes one of `at_once` is copied into
/// `running`, which so remains what the daemon lives by.
pub fn take_over(running: &mut Settings, new: &Settings, at_once: &[Takes]) -> Vec<Change> {
    let mut reload = Reload { at_once, changes: Vec::new() };
    let Settings { gate, lanes, ride_code, fare, ledger, wechat, upload, callback, exposure, deny, monitor } = running;
    reload.gate(gate, &new.gate);
    reload.lanes(lanes, &new.lanes);
    reload.ride_code(ride_code, &new.ride_code);
    reload.fare(fare, &new.fare);
    reload.ledger(ledger, &new.ledger);
    reload.wechat(wechat, &new.wechat);
    reload.upload(upload, &new.upload);
    reload.table("callback", Takes::Restart, callback, new.callback.as_ref(), Reload::callback);
    reload.table("exposure", Takes::Rules, exposure, new.exposure.as_ref(), Reload::exposure);
    reload.deny(deny, &new.deny);
    reload.table("monitor", Takes::Restart, monitor, new.monitor.as_ref(), Reload::monitor);
    reload.changes
}

struct Reload<'a> {
    at_once: &'a [Takes],
    changes: Vec<Change>,
}

/// Compares the fields of a struct, each with its key and what a change of it takes; those in brackets are compared elsewhere. The
/// pattern has no `..`: a field that is not named does not compile.
macro_rules! compare {
    (
        $reload:ident, $path:expr, $running:expr, $new:expr,
        $table:ident { $($field:ident: $key:literal $takes:ident),+ $(,)? $([$($elsewhere:ident),+])? }
    ) => {{
        let $table { $($field,)+ $($($elsewhere: _),+)? } = $running;
        $($reload.key($path, $key, Takes::$takes, $field, &$new.$field);)+
    }};
}

impl Reload<'_> {
    fn key<T: PartialEq + Clone>(&mut self, path: &str, key: &str, takes: Takes, running: &mut T, new: &T) {
        if running == new {
            return;
        }
        self.changed(format!("{path}.{key}"), takes);
        if self.at_once.contains(&takes) {
            new.clone_into(running);
        }
    }

    fn changed(&mut self, key: String, takes: Takes) {
        self.changes.push(Change { key, takes });
    }

    /// A table that may be absent: as one key when it came or went, else key by key.
    fn table<T: Clone>(
        &mut self,
        key: &str,
        takes: Takes,
        running: &mut Option<T>,
        new: Option<&T>,
        compare: impl FnOnce(&mut Self, &mut T, &T),
    ) {
        match (running.as_mut(), new) {
            (None, None) => {}
            (Some(running), Some(new)) => compare(self, running, new),
            _ => {
                self.changed(key.to_owned(), takes);
                if self.at_once.contains(&takes) {
                    *running = new.cloned();
                }
            }
        }
    }

    fn gate(&mut self, running: &mut Gate, new: &Gate) {
        compare!(self, "gate", running, new, Gate {
            id: "id" Restart,
            station: "station" Restart,
            duplicate_window: "duplicate_window" Rules,
            passenger_interval: "passenger_interval" Rules,
            open_within: "open_within" Restart,
        });
    }

    /// Lanes are told apart by their names; their order means nothing.
    fn lanes(&mut self, running: &mut [Lane], new: &[Lane]) {
        for lane in running.iter_mut() {
            let path = format!("lane[{}]", lane.name);
            match new.iter().find(|new| new.name == lane.name) {
                Some(new) => self.lane(&path, lane, new),
                None => self.changed(path, Takes::Restart),
            }
        }
        for lane in new.iter().filter(|new| running.iter().all(|lane| lane.name != new.name)) {
            self.changed(format!("lane[{}]", lane.name), Takes::Restart);
        }
    }

    fn lane(&mut self, path: &str, running: &mut Lane, new: &Lane) {
        compare!(self, path, running, new, Lane { mode: "mode" Restart, station: "station" Restart, [name, scanner, turnstile] });
        self.scanner(&format!("{path}.scanner"), &mut running.scanner, &new.scanner);
        self.turnstile(&format!("{path}.turnstile"), &mut running.turnstile, &new.turnstile);
    }

    fn scanner(&mut self, path: &str, running: &mut Scanner, new: &Scanner) {
        compare!(self, path, running, new, Scanner {
            device: "device" Restart,
            baud: "baud" Restart,
            framing: "framing" Restart,
            encoding: "encoding" Restart,
            idle_gap: "idle_gap" Restart,
            start_bytes: "start_bytes" Restart,
        });
    }

    fn turnstile(&mut self, path: &str, running: &mut Turnstile, new: &Turnstile) {
        match (&mut running.driver, &new.driver) {
            (Driver::Gpio(running), Driver::Gpio(new)) => self.gpio(path, running, new),
            (Driver::Simulated { trace, inputs }, Driver::Simulated { trace: new_trace, inputs: new_inputs }) => {
                self.key(path, "trace", Takes::Restart, trace, new_trace);
                self.key(path, "inputs", Takes::Restart, inputs, new_inputs);
                self.inputs(path, &mut running.inputs, new.inputs);
            }
            _ => self.changed(format!("{path}.driver"), Takes::Restart),
        }
        compare!(self, path, running, new, Turnstile {
            pulse: "pulse" Restart,
            pulse_gap: "pulse_gap" Restart,
            passage_timeout: "passage_timeout" Restart,
            no_passage: "no_passage" Restart,
            [driver, inputs]
        });
    }

    fn inputs(&mut self, path: &str, running: &mut Inputs, new: Inputs) {
        compare!(self, path, running, new, Inputs {
            passage: "passage" Restart,
            fire_alarm: "fire_alarm" Restart,
            exit_button: "exit_button" Restart,
        });
    }

    fn gpio(&mut self, path: &str, running: &mut Gpio, new: &Gpio) {
        compare!(self, path, running, new, Gpio {
            chip: "chip" Restart,
            open: "open" Restart,
            light_pass: "light_pass" Restart,
            light_deny: "light_deny" Restart,
            buzzer: "buzzer" Restart,
            passage: "passage" Restart,
            fire_alarm: "fire_alarm" Restart,
            exit_button: "exit_button" Restart,
            debounce: "debounce" Restart,
        });
    }

    fn ride_code(&mut self, running: &mut RideCode, new: &RideCode) {
        match (&mut running.format, &new.format) {
            (Format::Jtt1179 { roots }, Format::Jtt1179 { roots: new_roots }) => {
                self.key("ride_code", "roots", Takes::Roots, roots, new_roots);
            }
            (Format::Opaque { passenger }, Format::Opaque { passenger: new_passenger }) => {
                self.key("ride_code", "opaque_passenger", Takes::Restart, passenger, new_passenger);
            }
            _ => self.changed("ride_code.format".to_owned(), Takes::Restart),
        }
        compare!(self, "ride_code", running, new, RideCode {
            clock_tolerance: "clock_tolerance" Restart,
            unsynchronized_clock: "unsynchronized_clock" Restart,
            issuer_clock_offset_seconds: "issuer_clock_offset" Restart,
            [format]
        });
    }

    /// What stands on the bill is part of every request's body, which is made from a template of the start.
    fn fare(&mut self, running: &mut Fare, new: &Fare) {
        compare!(self, "fare", running, new, Fare {
            scene: "scene" Restart,
            body: "body" Restart,
            line_name: "line_name" Restart,
            flat_fen: "flat_fen" Rules,
            max_fen: "max_fen" Rules,
            discount_percent: "discount_percent" Rules,
            table: "table" Rules,
            max_journey: "max_journey" Rules,
            reentry_within: "reentry_within" Rules,
            unmatched_exit: "unmatched_exit" Rules,
            unfinished_entry: "unfinished_entry" Rules,
            same_station: "same_station" Rules,
        });
    }

    fn ledger(&mut self, running: &mut Ledger, new: &Ledger) {
        compare!(self, "ledger", running, new, Ledger {
            path: "path" Restart,
            min_free_bytes: "min_free" Restart,
            keep: "keep" Restart,
            keep_denied: "keep_denied" Restart,
        });
    }

    fn wechat(&mut self, running: &mut WeChat, new: &WeChat) {
        self.auth(&mut running.auth, &new.auth);
        compare!(self, "wechat", running, new, WeChat {
            base_url: "base_url" Restart,
            deduct_path: "deduct_path" Restart,
            appid: "appid" Restart,
            mch_id: "mch_id" Restart,
            timeout: "timeout" Restart,
            ca_file: "ca_file" Restart,
            machine_ip: "machine_ip" Restart,
            machine_latitude: "machine_latitude" Restart,
            machine_longitude: "machine_longitude" Restart,
            errcodes: "errcodes" Restart,
            [auth]
        });
    }

    fn auth(&mut self, running: &mut Auth, new: &Auth) {
        match (running, new) {
            (
                Auth::StableToken { secret_file, token_path },
                Auth::StableToken { secret_file: new_secret_file, token_path: new_token_path },
            ) => {
                self.key("wechat", "secret_file", Takes::Restart, secret_file, new_secret_file);
                self.key("wechat", "token_path", Takes::Restart, token_path, new_token_path);
            }
            (Auth::StaticToken { token_file }, Auth::StaticToken { token_file: new_token_file }) => {
                self.key("wechat", "token_file", Takes::Restart, token_file, new_token_file);
            }
            (Auth::None, Auth::None) => {}
            _ => self.changed("wechat.auth".to_owned(), Takes::Restart),
        }
    }

    fn upload(&mut self, running: &mut Upload, new: &Upload) {
        compare!(self, "upload", running, new, Upload {
            concurrency: "concurrency" Restart,
            retry_initial: "retry_initial" Restart,
            retry_max: "retry_max" Restart,
            unknown_attempts: "unknown_attempts" Restart,
            max_age: "max_age" Restart,
            alarm_after: "alarm_after" Restart,
        });
    }
    fn callback(&mut self, running: &mut Callback, new: &Callback) {
        self.sign(&mut running.sign, &new.sign);
        compare!(self, "callback", running, new, Callback {
            listen: "listen" Restart,
            payment_path: "payment_path" Restart,
            arrears_path: "arrears_path" Restart,
            aes_key_file: "aes_key_file" Restart,
            aes_key_encoding: "aes_key_encoding" Restart,
            sign_fields: "sign_fields" Restart,
            unknown_order: "unknown_order" Restart,
            [sign]
        });
    }

    fn sign(&mut self, running: &mut Sign, new: &Sign) {
        match (running, new) {
            (Sign::HmacSha256(running), Sign::HmacSha256(new)) | (Sign::Md5(running), Sign::Md5(new)) => {
                self.key("callback", "sign_key_file", Takes::Restart, running, new);
            }
            (Sign::None, Sign::None) => {}
            _ => self.changed("callback.sign".to_owned(), Takes::Restart),
        }
    }

    fn exposure(&mut self, running: &mut Exposure, new: &Exposure) {
        compare!(self, "exposure", running, new, Exposure {
            passenger_count: "passenger_count" Rules,
            passenger_fen: "passenger_fen" Rules,
            gate_fen: "gate_fen" Rules,
            oldest: "oldest" Rules,
            at_limit: "at_limit" Rules,
        });
    }

    /// What the list holds is read again whatever happens to the settings.
    fn deny(&mut self, running: &mut Deny, new: &Deny) {
        compare!(self, "deny", running, new, Deny { file: "file" Restart, unpaid: "unpaid" Restart });
    }

    fn monitor(&mut self, running: &mut Monitor, new: &Monitor) {
        compare!(self, "monitor", running, new, Monitor { listen: "listen" Restart });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{NamedFiles, load_placed, places};

    /// The shipped example with every setting in use, and two lanes.
    fn example() -> String {
        let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
        let lines = include_str!("../../config/faregate.toml").lines();
        lines.map(|line| if is_setting(line) { &line[1..] } else { line }).flat_map(|line| [line, "\n"]).collect()
    }

    fn settings(text: &str) -> Settings {
        let path = Path::new("/etc/faregate/faregate.toml");
        let loaded = load_placed(text, path, places(path, None, NamedFiles::LeftAlone));
        loaded.settings.unwrap_or_else(|| panic!("{:?}", loaded.findings))
    }

    /// The example with the first `old` replaced.
    fn with(old: &str, new: &str) -> Settings {
        assert!(example().contains(old), "{old}");
        settings(&example().replacen(old, new, 1))
    }

    fn changes(running: &Settings, new: &Settings) -> Vec<(String, Takes)> {
        take_over(&mut running.clone(), new, &[]).into_iter().map(|change| (change.key, change.takes)).collect()
    }

    #[test]
    fn the_same_settings_are_no_change_even_when_a_default_is_written_out() {
        let running = settings(&example());
        assert_eq!(changes(&running, &settings(&example())), []);
        assert_eq!(changes(&running, &with("baud = 115200\n", "\n")), []);
        assert_eq!(changes(&running, &with("duplicate_window = \"5m\"", "duplicate_window = \"300s\"")), []);
    }

    #[test]
    fn each_changed_key_is_named_with_what_it_takes() {
        let running = settings(&example());
        for (old, new, key, takes) in [
            ("id = \"S14-G03\"", "id = \"S14-G04\"", "gate.id", Takes::Restart),
            ("duplicate_window = \"5m\"", "duplicate_window = \"6m\"", "gate.duplicate_window", Takes::Rules),
            ("open_within = \"3s\"", "open_within = \"4s\"", "gate.open_within", Takes::Restart),
            ("mode = \"entry\"", "mode = \"both\"", "lane[in].mode", Takes::Restart),
            ("\"/dev/ttyUSB0\"", "\"/dev/faregate/scanner\"", "lane[in].scanner.device", Takes::Restart),
            ("baud = 115200", "baud = 57600", "lane[in].scanner.baud", Takes::Restart),
            ("open = 17", "open = { line = 17, active_low = true }", "lane[in].turnstile.open", Takes::Restart),
            ("passage = 27", "", "lane[in].turnstile.passage", Takes::Restart),
            ("pulse = \"500ms\"", "pulse = \"400ms\"", "lane[in].turnstile.pulse", Takes::Restart),
            ("driver = \"gpio\"", "driver = \"simulated\"", "lane[in].turnstile.driver", Takes::Restart),
            ("trace = \"gate-trace.jsonl\"", "", "lane[out].turnstile.trace", Takes::Restart),
            ("roots = \"roots.toml\"", "roots = \"others.toml\"", "ride_code.roots", Takes::Roots),
            ("clock_tolerance = \"10s\"", "clock_tolerance = \"11s\"", "ride_code.clock_tolerance", Takes::Restart),
            ("flat_fen = 200", "flat_fen = 300", "fare.flat_fen", Takes::Rules),
            ("table = \"fares.csv\"", "", "fare.table", Takes::Rules),
            ("line_name = \"2号线\"", "line_name = \"3号线\"", "fare.line_name", Takes::Restart),
            ("unmatched_exit = \"hold\"", "unmatched_exit = \"deny\"", "fare.unmatched_exit", Takes::Rules),
            ("min_free = \"64MiB\"", "min_free = \"65MiB\"", "ledger.min_free", Takes::Restart),
            ("secret_file = \"appsecret\"", "secret_file = \"other\"", "wechat.secret_file", Takes::Restart),
            ("timeout = \"10s\"", "timeout = \"11s\"", "wechat.timeout", Takes::Restart),
            ("auth = \"stable-token\"", "auth = \"none\"", "wechat.auth", Takes::Restart),
            ("concurrency = 8", "concurrency = 9", "upload.concurrency", Takes::Restart),
            ("unknown_order = \"accept\"", "unknown_order = \"refuse\"", "callback.unknown_order", Takes::Restart),
            ("sign_key_file = \"callback-sign\"", "sign_key_file = \"other\"", "callback.sign_key_file", Takes::Restart),
            ("gate_fen = 1000000", "gate_fen = 1000001", "exposure.gate_fen", Takes::Rules),
            ("listen = \"127.0.0.1:9480\"", "listen = \"127.0.0.1:9481\"", "monitor.listen", Takes::Restart),
        ] {
            assert_eq!(changes(&running, &with(old, new)), [(key.to_owned(), takes)], "{new}");
        }
    }

    #[test]
    fn tables_and_lanes_that_come_or_go_are_one_change_each() {
        let running = settings(&example());
        let without = |from: &str, to: &str| {
            let text = example();
            let (start, end) = (text.find(from).unwrap(), text.find(to).unwrap());
            settings(&format!("{}{}", &text[..start], &text[end..]))
        };
        for (fewer, key, takes) in [
            (without("[exposure]", "[deny]"), "exposure", Takes::Rules),
            (without("[callback]", "[exposure]"), "callback", Takes::Restart),
            (without("[[lane]]\nname = \"out\"", "[ride_code]"), "lane[out]", Takes::Restart),
        ] {
            assert_eq!(changes(&running, &fewer), [(key.to_owned(), takes)]);
            assert_eq!(changes(&fewer, &running), [(key.to_owned(), takes)]);
        }
    }

    #[test]
    fn what_is_taken_over_is_no_change_the_next_time_and_the_rest_is_told_again() {
        let mut running = settings(&example());
        let mut new = with("flat_fen = 200", "flat_fen = 300");
        new.exposure = None;
        new.lanes[0].scanner.baud = 57_600;
        let first = take_over(&mut running, &new, &[Takes::Roots, Takes::Rules]);
        assert_eq!(first.len(), 3, "{first:?}");
        assert_eq!((running.fare.flat_fen, running.exposure.is_none(), running.lanes[0].scanner.baud), (300, true, 115_200));
        assert_eq!(changes(&running, &new), [("lane[in].scanner.baud".to_owned(), Takes::Restart)]);
    }
}
