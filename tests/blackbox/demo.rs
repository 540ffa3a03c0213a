//! `faregate demo` and `faregate sandbox`: what whoever looks at the project runs first.
//!
//! Always the program that was built with these tests: an installed package's is built without both.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::Duration,
};

use data_encoding::BASE64;
use rustix::{
    io::ioctl_fionbio,
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, SpecialCodeIndex, Termios, Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    DEADLINE, Gate, WeChat,
    callbacks::{AES_KEY, Caller, SIGN_KEY},
    code, codes, wait_until,
    wechat::{APPID, SECRET},
};

fn faregate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faregate"));
    command.args(args).env("TERM", "xterm-256color").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn wait_for(child: &mut Child, what: &str) -> Option<i32> {
    let mut code = None;
    wait_until(what, 3 * DEADLINE, || {
        code = child.try_wait().unwrap();
        code.is_some()
    });
    code.and_then(|status| status.code())
}

/// A command's whole output; it must end.
fn output(args: &[&str], temporary: &TempDir) -> Output {
    let child = faregate(args).env("TMPDIR", temporary.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.wait_with_output().unwrap()
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("faregate-test-").tempdir().unwrap()
}

fn assert_empty(folder: &TempDir) {
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn the_demo_tells_its_story_in_plain_lines_and_its_books_balance() {
    let temporary = folder();
    let said = output(&["demo", "--trips", "12", "--outage", "1", "--seed", "7"], &temporary);
    let (out, errors) = (String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap());
    assert_eq!((said.status.code(), errors.as_str()), (Some(0), ""), "{out}");
    let odd: Vec<_> = out.chars().filter(|character| character.is_control() && *character != '\n').collect();
    assert!(odd.is_empty(), "control characters: {odd:?}");
    for part in [
        "taps in",
        "OPEN for passenger",
        "REFUSED: format",
        "REFUSED: duplicate",
        "REFUSED: too-soon",
        "REFUSED: expired",
        "REFUSED: not-yet-valid",
        "REFUSED: certificate-signature",
        "REFUSED: issuer-signature",
        "REFUSED: user-signature",
        "taps out, and has not tapped in",
        "taps in, and has not tapped out of the ride before",
        "taps in once more",
        "turns back",
        "has not passed yet, and taps again",
        "nobody goes through",
        "TAILGATE: somebody went through uninvited",
        "certificate-signature 1, duplicate 2, expired 1",
        "every one refused, by the reason that is its own",
        "THE NETWORK GOES AWAY",
        "THE NETWORK IS BACK",
        "open 0 + exited 10 + replaced 1 + unfinished 1 + taken-back 1",
        "held 1 + pending 0 + accepted 0 + paid 9 + unpaid 1 + parked 0 + void 2",
        "passengers owe by the fare table       10   48.00 yuan",
        "charged by WeChat (sandbox)        10   48.00 yuan",
        "They balance",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    assert_empty(&temporary);
}

/// The demo on a terminal of our own, in its foreground as a shell would start it: what is typed can be a signal.
struct OnTerminal {
    child: Child,
    master: File,
    slave: std::os::fd::OwnedFd,
    /// How it was before the demo.
    before: Termios,
    shown: Vec<u8>,
}

impl OnTerminal {
    fn start(args: &[&str], configure: impl FnOnce(&mut Command)) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        tcsetwinsize(&slave, Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        ioctl_fionbio(&master, true).unwrap();
        let before = tcgetattr(&slave).unwrap();
        let demo = faregate(args);
        // setsid (util-linux) becomes the leader of a session, takes its standard input for the controlling terminal, and then
        // becomes the program.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(demo.get_program()).args(demo.get_args()).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave.try_clone().unwrap());
        configure(&mut command);
        Self { child: command.spawn().unwrap(), master: File::from(master), slave, before, shown: Vec::new() }
    }

    fn text(&mut self) -> String {
        let mut bytes = [0; 4096];
        loop {
            match self.master.read(&mut bytes) {
                Ok(count) => self.shown.extend(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    fn wait_shown(&mut self, part: &str) {
        wait_until(&format!("{part:?} is on the screen"), DEADLINE, || self.text().contains(part));
    }

    /// Reads on, or the demo would wait for us.
    fn wait_end(&mut self) -> Option<i32> {
        let mut code = None;
        wait_until("the demo ends", 3 * DEADLINE, || {
            self.text();
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|status| status.code())
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The picture's lines as they stand on the screen: without the sequences that colour them.
fn lines_of(frame: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut characters = frame.chars();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => drop(characters.by_ref().find(char::is_ascii_alphabetic)),
            '\r' => {}
            '\n' => lines.push(String::new()),
            character => lines.last_mut().unwrap().push(character),
        }
    }
    lines
}

#[test]
fn on_a_terminal_a_picture_is_drawn_that_fits_whatever_size_the_terminal_is_given() {
    let mut demo = OnTerminal::start(&["demo", "--outage", "0"], |_| {});
    demo.wait_shown("\x1b[?1049h");
    demo.wait_shown("FAREGATE DEMO");
    demo.wait_shown("OPEN for passenger");
    for (ws_row, ws_col) in [(10, 40), (1, 2), (60, 200)] {
        demo.shown.clear();
        tcsetwinsize(&demo.slave, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        // The first frame of a new size clears the screen; the one behind it is whole.
        demo.wait_shown("\x1b[2J\x1b[H");
        wait_until("a frame has been drawn after it", DEADLINE, || demo.text().matches("\x1b[H").count() > 1);
        let text = demo.text();
        let frame = text.split("\x1b[2J\x1b[H").nth(1).unwrap().split("\x1b[H").next().unwrap();
        let lines = lines_of(frame);
        assert!(lines.len() <= ws_row.into(), "{ws_row} rows: {lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() < ws_col.into()), "{ws_col} columns: {lines:#?}");
        assert!(ws_row < 60 || lines.iter().any(|line| line.contains("FAREGATE DEMO")), "{lines:#?}");
    }
}

#[test]
fn ctrl_c_typed_at_the_terminal_gives_it_back_and_closes_the_books() {
    let temporary = folder();
    let mut demo = OnTerminal::start(&["demo", "--outage", "0"], |command| {
        command.env("TMPDIR", temporary.path());
    });
    demo.wait_shown("OPEN for passenger");
    assert!(!tcgetattr(&demo.slave).unwrap().local_modes.contains(LocalModes::ECHO), "what is typed would show");
    demo.master.write_all(b"x\x1a\x03").unwrap();
    assert_eq!(demo.wait_end(), Some(0), "{}", demo.text());
    let text = demo.text();
    let (drawn, after) = text.rsplit_once("\x1b[?25h\x1b[?1049l").expect("the screen and the cursor are given back");
    assert!(after.contains("They balance") && !after.contains('\x1b'), "{after}");
    assert!(!text.contains("^C") && drawn.contains("closing the books"), "{text}");
    let now = tcgetattr(&demo.slave).unwrap();
    assert_eq!(now.local_modes, demo.before.local_modes);
    let suspend = SpecialCodeIndex::VSUSP;
    assert_eq!(now.special_codes[suspend], demo.before.special_codes[suspend]);
    assert_empty(&temporary);
}

#[test]
fn a_terminal_without_colours_gets_plain_lines() {
    let mut demo = OnTerminal::start(&["demo", "--trips", "1", "--outage", "0"], |command| {
        command.env("NO_COLOR", "1");
    });
    assert_eq!(demo.wait_end(), Some(0));
    let text = demo.text();
    assert!(text.contains("They balance") && !text.contains('\x1b'), "{text}");
}

#[test]
fn a_demo_whose_reader_has_seen_enough_ends_quietly() {
    let mut demo = faregate(&["demo", "--outage", "0"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    BufReader::new(demo.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let code = wait_for(&mut demo, "the demo ends");
    let mut errors = String::new();
    demo.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((code, errors.as_str()), (Some(0), ""));
}

/// A running `faregate sandbox`.
struct Sandbox {
    child: Child,
    address: String,
    out: BufReader<ChildStdout>,
}

impl Sandbox {
    fn start(args: &[&str]) -> Self {
        let args = [&["sandbox", "--listen", "127.0.0.1:0"], args].concat();
        let mut child = faregate(&args).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("it says {line:?}")).to_owned();
        Self { child, address, out }
    }

    /// Everything that comes until the connection is closed.
    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut line = TcpStream::connect(&self.address).unwrap();
        line.set_read_timeout(Some(DEADLINE)).unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        line.write_all((head + body).as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A reset is a close.
        let _ = line.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn json(&self, method: &str, path: &str, body: &str) -> Value {
        let answer = self.ask(method, path, body);
        let body = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}")).1;
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    fn token(&self) -> String {
        let asked = json!({"grant_type": "client_credential", "appid": "wxsandbox", "secret": "sandbox-secret"});
        let answer = self.json("POST", "/cgi-bin/stable_token", &asked.to_string());
        assert!(answer["expires_in"].as_u64().is_some_and(|seconds| (7100..=7200).contains(&seconds)), "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_sandbox_that_could_not_answer_as_told_is_refused_before_it_listens() {
    for (args, why) in [
        (["--deduct-path", "deduct"], "a path begins with /"),
        (["--deduct-path", "/deduct?a=b"], "a path begins with /"),
        (["--token-path", "/sandbox/book"], "where the sandbox itself is switched"),
        (["--token-path", "/deduct"], "paths of their own"),
        (["--token-life", "0"], "1..=7200"),
        (["--duplicate-errcode", "x"], "--duplicate-errcode"),
    ] {
        let said = output(&[&["sandbox", "--listen", "127.0.0.1:0"][..], &args].concat(), &folder());
        let errors = String::from_utf8(said.stderr).unwrap();
        assert_eq!((said.status.code(), said.stdout.len()), (Some(64), 0), "{args:?}: {errors}");
        assert!(errors.contains(why), "{args:?}: {errors}");
    }
}

fn deduction(order: &str) -> String {
    json!({
        "qrcode": "gP/+AQ==", "total_fee": 160, "original_fee": 200, "body": "地铁代扣", "start_time": "20261123133430",
        "line_name": "2号线", "trade_scene": "METRO", "out_order_no": order, "attach": order,
    })
    .to_string()
}

#[test]
fn the_sandbox_charges_an_order_once_whatever_gets_lost_and_keeps_the_book() {
    let mut sandbox = Sandbox::start(&[]);
    let path = format!("/deduct?access_token={}", sandbox.token());
    let faults = json!({"rules": [{"fault": "drop", "next": 1}, {"fault": "errcode", "errcode": -1, "next": 1}]});
    let set = sandbox.json("POST", "/sandbox/faults", &faults.to_string());
    assert_eq!(set["used"], json!([0, 0]));
    assert_eq!(sandbox.ask("POST", &path, &deduction("A1")), "", "taken, and the answer is lost");
    assert_eq!(sandbox.json("POST", &path, &deduction("A1"))["errcode"], -1);
    assert_eq!(sandbox.json("POST", &path, &deduction("A1"))["errcode"], 0);
    assert_eq!(sandbox.json("POST", &path, &deduction("A1").replace("160", "170"))["errcode"], 201);
    let refused = sandbox.json("POST", &path, &deduction("A2").replace("160", "\"160\""));
    assert_eq!((&refused["errcode"], refused["errmsg"].as_str().unwrap().contains("total_fee")), (&json!(47001), true));
    let book = sandbox.json("GET", "/sandbox/book", "");
    assert_eq!(book["charged"], json!({"count": 1, "fen": 160}));
    assert_eq!((&book["charges"][0]["order"], &book["charges"][0]["requests"]), (&json!("A1"), &json!(2)));
    assert_eq!(sandbox.json("GET", "/sandbox/faults", "")["used"], json!([1, 1]));
    kill_process(Pid::from_child(&sandbox.child), Signal::TERM).unwrap();
    assert_eq!(wait_for(&mut sandbox.child, "the sandbox ends"), Some(0));
}

#[test]
fn the_sandbox_can_be_told_what_to_answer_to_repeats_and_to_forget_its_tokens() {
    let sandbox = Sandbox::start(&["--duplicate-errcode", "61010"]);
    let path = format!("/deduct?access_token={}", sandbox.token());
    assert_eq!(sandbox.json("POST", &path, &deduction("A1"))["errcode"], 0);
    assert_eq!(sandbox.json("POST", &path, &deduction("A1"))["errcode"], 61010);
    assert!(sandbox.ask("POST", "/sandbox/tokens/invalidate", "").starts_with("HTTP/1.1 204"));
    assert_eq!(sandbox.json("POST", &path, &deduction("A1"))["errcode"], 40001);
    let faults = json!({"rules": [{"fault": "hang"}]});
    sandbox.json("POST", "/sandbox/faults", &faults.to_string());
    let mut hanging = TcpStream::connect(&sandbox.address).unwrap();
    hanging.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let body = deduction("A2");
    write!(hanging, "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let error = hanging.read(&mut [0]).expect_err("no answer and no end");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
}

#[test]
fn the_settings_that_the_sandbox_prints_are_all_that_a_gate_needs_for_it() {
    for args in [&[][..], &["--no-token", "--deduct-path", "/city/pay"], &["--token-path", "/token"]] {
        let mut sandbox = Sandbox::start(args);
        let lines = sandbox.out.by_ref().lines().map(Result::unwrap).skip_while(|line| line != "[wechat]");
        let printed: String = lines.take_while(|line| !line.is_empty()).map(|line| line + "\n").collect();
        let mut gate = Gate::sending_to("http://127.0.0.1:1").prepare();
        let settings = gate.settings();
        let (before, after) = settings.split_once("[wechat]").unwrap();
        let after = &after[after.find("\n[").unwrap()..];
        gate.write_settings(&format!("{before}{printed}{after}"));
        let secret = printed.split_once("holds: ").map_or("", |(_, rest)| rest.lines().next().unwrap());
        write_secret(&gate.path("appsecret"), secret);
        gate.start();
        gate.scan("in", &code("PRINTED", 1));
        gate.wait_opens(1);
        gate.wait("it is charged", || sandbox.json("GET", "/sandbox/book", "")["charged"]["count"] == 1);
    }
}

fn write_secret(path: &Path, secret: &str) {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).unwrap();
    writeln!(file, "{secret}").unwrap();
}

/// A real gate beside the real sandbox, which knows its app.
fn gate_beside(sandbox: &Sandbox) -> Gate {
    let errcodes = json!({"61010": "accepted"});
    Gate::sending_to(&format!("http://{}", sandbox.address)).set("wechat", "errcodes", errcodes).start()
}

#[test]
fn a_gate_beside_the_sandbox_charges_each_passage_once_whatever_the_sandbox_is_told_to_spoil() {
    let sandbox = Sandbox::start(&["--appid", APPID, "--secret", SECRET, "--duplicate-errcode", "61010"]);
    let mut gate = gate_beside(&sandbox);
    let spoilt = [
        json!({"fault": "drop", "next": 1}),
        json!({"fault": "http", "status": 500, "taken": true, "next": 1}),
        json!({"fault": "html", "next": 1}),
        json!({"fault": "errcode", "errcode": -1, "next": 1}),
        json!({"fault": "refuse", "on": "all", "for_ms": 300}),
        // The last one: its token is no longer good, and a new one is not to be had at once.
        json!({"fault": "html", "on": "token", "next": 1}),
    ];
    for (number, rule) in spoilt.iter().enumerate() {
        sandbox.json("POST", "/sandbox/faults", &json!({"rules": [rule], "latency_ms": {"p50": 5, "p99": 20}}).to_string());
        if rule["on"] == "token" {
            sandbox.ask("POST", "/sandbox/tokens/invalidate", "");
        }
        gate.scan("in", &code("SANDBOX", number));
        gate.wait_opens(number + 1);
        gate.wait_drained();
    }
    let book = sandbox.json("GET", "/sandbox/book", "");
    assert_eq!(book["charged"], json!({"count": spoilt.len(), "fen": 200 * spoilt.len()}), "{book:#}");
    let orders = |rows: &[Value], key: &str| rows.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    let accepted = gate.rows_in("accepted");
    assert_eq!(orders(book["charges"].as_array().unwrap(), "order"), orders(&accepted, "order"), "{accepted:#?}");
    let refused = json!({"-1": 1, "40001": 1});
    assert_eq!(book["counts"]["refused"], refused, "{book:#}");
    assert_eq!(book["counts"]["repeated"], 2, "what was taken and whose answer was spoilt comes twice");
}

#[test]
fn the_sandbox_calls_a_gate_back_and_both_books_are_the_same() {
    let (caller, keys, wechat) = (Caller::new(), folder(), WeChat::start());
    let key_file = |name: &str, content: &str| {
        let path = keys.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (aes_key, sign_key) = (key_file("aes", &BASE64.encode(&AES_KEY)), key_file("sign", SIGN_KEY));
    let url = format!("http://127.0.0.1:{}", caller.port);
    let app = ["--appid", APPID, "--secret", SECRET];
    let way_back = ["--callback-url", &url, "--callback-aes-key-file", &aes_key, "--callback-sign-key-file", &sign_key];
    let story = ["--callback-delay", "20", "--callback-repeat", "2", "--callback-early", "0.3", "--callback-fail", "0.5"];
    let sandbox = Sandbox::start(&[&app[..], &way_back, &story, &["--callback-repay-after", "1"]].concat());
    let builder = caller.settings(Gate::beside(&wechat)).set("gate", "passenger_interval", "0s");
    let mut gate = builder.set("wechat", "base_url", format!("http://{}", sandbox.address)).start();
    let codes = codes("SANDBOX", 0..12);
    for code in &codes {
        gate.scan("in", code);
    }
    let callbacks = || sandbox.json("GET", "/sandbox/callbacks", "");
    gate.wait("all are paid, and all is told", || {
        gate.rows_in("paid").len() == codes.len() && callbacks()["counts"]["outstanding"] == 0
    });
    let charges = sandbox.json("GET", "/sandbox/book", "")["charges"].as_array().unwrap().clone();
    let repaid: Vec<_> = charges.iter().filter(|charge| charge["money"] == "repaid").collect();
    assert!(!repaid.is_empty() && repaid.len() < codes.len(), "{charges:?}");
    assert!(charges.iter().all(|charge| charge["told"] == true), "{charges:?}");
    for charge in repaid {
        let story = gate.ask(&["queue", "show", charge["order"].as_str().unwrap()]);
        let told = story["events"].to_string();
        assert!(told.contains("repay_no R"), "{story}");
    }
    let refused = sandbox.ask("POST", "/sandbox/callbacks", r#"{"fail_share":2}"#);
    assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("fail_share is from 0 to 1"), "{refused}");
    assert_eq!(callbacks()["rules"]["fail_share"], 0.5, "nonsense changes nothing");
    gate.stop_cleanly();
}
