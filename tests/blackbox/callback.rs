//! WeChat's way back: callbacks over HTTP, whatever their order, and whatever is wrong with them.

use std::{
    io::Write,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use aes::cipher::{BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use data_encoding::{BASE64, HEXLOWER, HEXUPPER};
use md5::{Digest, Md5};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::support::{
    Answer, Gate, WeChat,
    callbacks::{
        ARREARS, Caller, PAYMENT, SIGN_KEY, answer, paid, refusal, repaid, request, sealed, sign_string, signed, unpaid, unsigned,
    },
    code,
    gate::Builder,
};

/// A gate that takes callbacks, beside its WeChat, which calls it back.
struct Site {
    wechat: WeChat,
    gate: Gate,
    caller: Caller,
}

impl Site {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(change: impl FnOnce(Builder) -> Builder) -> Self {
        let (wechat, caller) = (WeChat::start(), Caller::new());
        let builder = caller.settings(Gate::beside(&wechat)).set("wechat", "timeout", "1s").set("gate", "passenger_interval", "0s");
        let gate = change(builder).start();
        Self { wechat, gate, caller }
    }

    /// Rides, and waits until WeChat has taken it; the deduction as it was sent.
    fn ride(&mut self, code: &[u8]) -> Value {
        let before = self.gate.rows_in("accepted").len();
        self.gate.scan("in", code);
        self.gate.wait("it is accepted", || self.gate.rows_in("accepted").len() > before);
        self.sent(code)
    }

    /// The deduction as it was sent.
    fn sent(&self, code: &[u8]) -> Value {
        let deductions = self.wechat.deductions();
        deductions.iter().find(|deduction| deduction.code() == code).expect("it was sent").json.clone()
    }

    fn show(&self, deduction: &Value) -> Value {
        self.gate.ask(&["queue", "show", deduction["attach"].as_str().unwrap()])
    }

    fn state(&self, deduction: &Value) -> String {
        self.show(deduction)["state"].as_str().unwrap().to_owned()
    }

    /// A counter of `/metrics`; 0 when it is not there.
    fn counter(&self, name: &str) -> u64 {
        let (_, text) = self.gate.get("/metrics").expect("the monitor answers");
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
    }

    fn refused_for(&self, cause: &str) -> u64 {
        self.counter(&format!("faregate_callbacks_refused_total{{cause=\"{cause}\"}}"))
    }
}

fn events(story: &Value) -> Vec<&str> {
    story["events"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect()
}

fn flags(story: &Value) -> Vec<&str> {
    story["flags"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap()).collect()
}

// ---- what becomes of an order --------------------------------------------------------------------------------------------------------

#[test]
fn a_ride_that_is_paid_is_told_in_its_story_and_counted() {
    let mut site = Site::new();
    let ride = site.ride(&code("PAID", 1));
    assert!(site.caller.payment(&paid(&ride)));
    let story = site.show(&ride);
    assert_eq!((&story["state"], &story["paid_fen"], &story["flags"]), (&json!("paid"), &json!(200), &json!([])));
    assert_eq!((&story["transaction_id"], story["settled_at"].is_string()), (&json!("4200000001"), true));
    let last = story["events"].as_array().unwrap().last().unwrap();
    assert_eq!(last["event"], "paid");
    assert!(last["detail"].as_str().unwrap().contains("200 fen, transaction 4200000001"), "{last}");
    assert_eq!(site.counter("faregate_callbacks_total{kind=\"payment\"}"), 1);
    assert_eq!(site.counter("faregate_callback_orders_total{result=\"changed\"}"), 1);
    assert_eq!(site.gate.status()["queue"]["paid"], 1);
}

#[test]
fn an_answer_to_a_callback_means_that_a_kill_takes_nothing_away() {
    let mut site = Site::new();
    let ride = site.ride(&code("DURABLE", 1));
    assert!(site.caller.payment(&paid(&ride)));
    site.gate.kill9();
    assert_eq!(site.state(&ride), "paid");
    site.gate.start();
    assert!(site.caller.payment(&paid(&ride)), "told again");
    assert!(site.caller.payment(&unpaid(&ride)), "told too late");
    let story = site.show(&ride);
    assert_eq!((&story["state"], events(&story).last()), (&json!("paid"), Some(&"callback-without-effect")));
    assert_eq!(site.counter("faregate_callback_orders_total{result=\"unchanged\"}"), 2);
}

#[test]
fn a_ride_that_could_not_be_paid_is_unpaid_until_it_is() {
    let mut site = Site::new();
    let ride = site.ride(&code("UNPAID", 1));
    assert!(site.caller.payment(&unpaid(&ride)));
    let story = site.show(&ride);
    assert_eq!((&story["state"], &story["paid_fen"], &story["settled_at"]), (&json!("unpaid"), &Value::Null, &Value::Null));
    assert!(site.caller.payment(&paid(&ride)));
    let story = site.show(&ride);
    assert_eq!(story["state"], "paid");
    assert!(events(&story).ends_with(&["unpaid", "paid"]), "{story}");
}

#[test]
fn a_callback_may_be_faster_than_the_answer_to_the_deduction_and_nothing_is_sent_again() {
    let mut site = Site::new();
    site.wechat.answer(Answer::Hang);
    for (number, content) in [paid as fn(&Value) -> Value, unpaid].into_iter().enumerate() {
        let code = code("FASTER", number);
        site.gate.scan("in", &code);
        site.gate.wait("it is sent", || site.wechat.requests() == number + 1);
        assert!(site.caller.payment(&content(&site.sent(&code))));
    }
    assert_eq!(
        (site.state(&site.sent(&code("FASTER", 0))), site.state(&site.sent(&code("FASTER", 1)))),
        ("paid".into(), "unpaid".into())
    );
    // Until the sends that hang have timed out, and the upload goes on.
    site.wechat.answer(Answer::Ok);
    site.ride(&code("FASTER", 2));
    assert_eq!(site.wechat.requests(), 3, "what is settled is not sent again");
    assert_eq!(
        (site.state(&site.sent(&code("FASTER", 0))), site.state(&site.sent(&code("FASTER", 1)))),
        ("paid".into(), "unpaid".into())
    );
    site.wechat.assert_one_order_per_code_and_one_body_per_order();
}

#[test]
fn a_parked_ride_becomes_unpaid_or_paid_and_is_not_sent_again() {
    let mut site = Site::new();
    site.wechat.answer(Answer::ErrCode(47001));
    for number in 0..2 {
        site.gate.scan("in", &code("PARKED", number));
    }
    site.gate.wait("both are parked", || site.gate.rows_in("parked").len() == 2);
    let [first, second] = [0, 1].map(|number| site.sent(&code("PARKED", number)));
    assert!(site.caller.payment(&unpaid(&first)) && site.caller.payment(&paid(&second)));
    assert_eq!((site.state(&first), site.state(&second)), ("unpaid".into(), "paid".into()));
    let said = site.gate.cli(&["queue", "retry", first["attach"].as_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{said:?}");
}

#[test]
fn a_void_ride_that_is_paid_all_the_same_says_so() {
    let mut site = Site::new();
    site.wechat.answer(Answer::ErrCode(47001));
    site.gate.scan("in", &code("VOID-PAID", 1));
    site.gate.wait("it is parked", || site.gate.rows_in("parked").len() == 1);
    let ride = site.sent(&code("VOID-PAID", 1));
    let order = ride["attach"].as_str().unwrap();
    assert_eq!(site.gate.cli(&["queue", "void", order, "--reason", "test", "--even-if-sent"]).code, Some(0));
    assert!(site.caller.payment(&unpaid(&ride)));
    assert_eq!(site.state(&ride), "void");
    assert!(site.caller.payment(&paid(&ride)));
    let story = site.show(&ride);
    assert_eq!((&story["state"], flags(&story)), (&json!("paid"), vec!["paid-after-void"]));
}

#[test]
fn another_amount_is_taken_as_told_and_raises_an_alarm() {
    let mut site = Site::new();
    let ride = site.ride(&code("AMOUNT", 1));
    let mut content = paid(&ride);
    content["total_fee"] = json!(150);
    assert!(site.caller.payment(&content));
    let story = site.show(&ride);
    assert_eq!((&story["state"], &story["paid_fen"], flags(&story)), (&json!("paid"), &json!(150), vec!["amount-mismatch"]));
    let (status, health) = site.gate.get("/health").unwrap();
    assert!(status == 200 && health.contains(ride["attach"].as_str().unwrap()), "{status} {health}");
}

#[test]
fn payments_that_do_not_fit_are_counted_by_an_alarm_that_outlives_a_restart() {
    let mut site = Site::new();
    let (twice, amount) = (site.ride(&code("TWICE", 1)), site.ride(&code("TWICE", 2)));
    let mut second = paid(&twice);
    second["transaction_id"] = json!("4200000009");
    let mut other_amount = paid(&amount);
    other_amount["total_fee"] = json!(150);
    for content in [&other_amount, &paid(&twice), &second, &second] {
        assert!(site.caller.payment(content));
    }
    let story = site.show(&twice);
    assert_eq!((&story["transaction_id"], flags(&story)), (&json!("4200000001"), vec!["paid-again"]));
    assert!(story["events"].as_array().unwrap().last().unwrap()["detail"].as_str().unwrap().contains("4200000009"), "{story}");
    assert_eq!(site.gate.log().matches("is paid again").count(), 1);
    let is_told = |gate: &Gate| {
        let (_, health) = gate.get("/health").unwrap();
        health.contains(twice["attach"].as_str().unwrap()) && health.contains("and 1 more")
    };
    site.gate.wait("it is told", || is_told(&site.gate));
    site.gate.kill9();
    site.gate.start();
    site.gate.wait("it is told again", || is_told(&site.gate));
}

#[test]
fn an_odd_time_is_no_reason_to_refuse() {
    let mut site = Site::new();
    for (number, time) in [json!("2021012811203012"), json!(null), json!(20_261_123), json!("yesterday")].into_iter().enumerate() {
        let ride = site.ride(&code("TIME", number));
        let mut content = paid(&ride);
        content["time_end"] = time;
        assert!(site.caller.payment(&content), "{content}");
        assert_eq!(site.state(&ride), "paid");
    }
}

#[test]
fn an_order_is_found_by_its_number_or_its_code_when_attach_did_not_come_back() {
    let mut site = Site::new();
    let (by_number, by_code) = (site.ride(&code("NAMES", 1)), site.ride(&code("NAMES", 2)));
    let mut content = paid(&by_number);
    content.as_object_mut().unwrap().remove("attach");
    content["qrcode"] = json!(BASE64.encode(b"another code"));
    assert!(site.caller.payment(&content));
    assert_eq!((site.state(&by_number), site.state(&by_code)), ("paid".into(), "accepted".into()));
    let mut content = paid(&by_code);
    content["attach"] = json!("changed on the way");
    content["out_trade_no"] = json!("4200000001202611230000000000");
    assert!(site.caller.payment(&content));
    assert_eq!(site.state(&by_code), "paid");
}

#[test]
fn one_repayment_settles_several_trips() {
    let mut site = Site::new();
    let rides: Vec<_> = (0..3).map(|number| site.ride(&code("ARREARS", number))).collect();
    for ride in &rides {
        assert!(site.caller.payment(&unpaid(ride)));
    }
    let stranger = json!({"attach": "00000000000000000000000000", "total_fee": 200, "qrcode": "AAAA", "out_order_no": "X"});
    let content = repaid(&[&rides[0], &rides[1], &rides[2], &stranger]);
    for _ in 0..2 {
        assert!(site.caller.arrears(&content));
    }
    for ride in &rides {
        let story = site.show(ride);
        assert_eq!((&story["state"], &story["paid_fen"], &story["flags"]), (&json!("paid"), &json!(200), &json!([])));
        assert!(story["events"].to_string().contains("repay_no R1"), "{story}");
    }
    assert_eq!(site.counter("faregate_callback_orders_total{result=\"unknown\"}"), 2);
}

#[test]
fn a_trip_of_a_repayment_that_has_nothing_but_its_order_no_is_found() {
    let mut site = Site::new();
    let rides: Vec<_> = (0..2).map(|number| site.ride(&code("ORDER-NO", number))).collect();
    let content = json!({
        "total_fee": 400, "transaction_id": "4200000002", "repay_no": "R1", "order_no": [rides[0]["attach"], rides[1]["attach"]],
        "order": [{"order_no": rides[0]["attach"], "attach": null, "out_order_no": null, "base64_qrcode": null}],
    });
    assert!(site.caller.arrears(&content));
    for ride in &rides {
        assert_eq!(site.show(ride)["paid_fen"], json!(200));
    }
    assert_eq!(site.counter("faregate_callback_orders_total{result=\"unknown\"}"), 0);
}

#[test]
fn an_unknown_order_is_received_or_refused_as_the_settings_say() {
    for (policy, is_received) in [("accept", true), ("refuse", false)] {
        let mut site = Site::with(|builder| builder.set("callback", "unknown_order", policy));
        let ride = site.ride(&code("KNOWN", 1));
        let mut content = paid(&ride);
        content["attach"] = json!("00000000000000000000000000");
        content["out_trade_no"] = json!("4200000001");
        assert_eq!(site.caller.payment(&content), is_received, "{policy}");
        assert_eq!(site.state(&ride), "accepted", "its code alone proves nothing");
        assert_eq!(site.refused_for("unknown-order"), u64::from(!is_received));
        let mixed = repaid(&[&ride, &json!({"attach": "X", "total_fee": 200})]);
        assert!(site.caller.arrears(&mixed), "{policy}: of a repayment each gate takes its own");
        assert_eq!(site.state(&ride), "paid", "what is known is settled all the same");
    }
}

// ---- what can be set -----------------------------------------------------------------------------------------------------------------

#[test]
fn other_ciphers_signatures_and_names_are_taken_as_the_settings_say() {
    let key: [u8; 16] = *b"sixteen byte key";
    let encrypt = |content: &Value| {
        let content = content.to_string();
        let encryptor = cbc::Encryptor::<aes::Aes128>::new(&key.into(), &[7; 16].into());
        BASE64.encode(&encryptor.encrypt_padded_vec::<Pkcs7>(content.as_bytes()))
    };
    let mut site = Site::with(|builder| {
        let builder = builder.file("callback-aes", HEXLOWER.encode(&key).as_bytes());
        builder.set("callback", "aes_key_encoding", "hex").set("callback", "sign", "md5")
    });
    let ride = site.ride(&code("MD5", 1));
    let mut envelope = unsigned(b"");
    envelope["encrypted_data"] = json!(encrypt(&paid(&ride)));
    let merchant = envelope.as_object_mut().unwrap().remove("mch_id").unwrap();
    envelope["appidmch_id"] = merchant;
    envelope["sign"] = json!(HEXUPPER.encode(&Md5::digest(sign_string(&envelope).as_bytes())));
    assert_eq!(site.caller.post(PAYMENT, &envelope)["errcode"], 0);
    assert_eq!(site.state(&ride), "paid");
}

#[test]
fn unsigned_callbacks_are_taken_where_the_settings_allow_them() {
    let mut site = Site::with(|builder| builder.set("callback", "sign", "none").set("callback", "allow_unsigned", true));
    let ride = site.ride(&code("UNSIGNED", 1));
    assert_eq!(site.caller.post(PAYMENT, &unsigned(paid(&ride).to_string().as_bytes()))["errcode"], 0);
    assert_eq!(site.state(&ride), "paid");
}

// ---- what is refused -----------------------------------------------------------------------------------------------------------------

/// An envelope with one thing wrong, and signed as it is.
fn spoilt(content: &[u8], name: &str, value: Value) -> Value {
    let mut envelope = unsigned(content);
    envelope[name] = value;
    signed(envelope)
}

#[test]
fn everything_that_is_wrong_has_the_one_answer_is_counted_and_changes_nothing() {
    let mut site = Site::new();
    let ride = site.ride(&code("WRONG", 1));
    let good = paid(&ride).to_string().into_bytes();
    let mut tampered = sealed(&good);
    tampered["nonce_str"] = json!("another");
    let post = |path: &str, envelope: &Value| request("POST", path, envelope.to_string().as_bytes());
    let without_amount = paid(&ride).to_string().replace("total_fee", "total");
    let wrong: Vec<(&str, Vec<u8>)> = vec![
        ("appid", post(PAYMENT, &spoilt(&good, "appid", json!("wxother")))),
        ("merchant", post(PAYMENT, &spoilt(&good, "mch_id", json!("1900000002")))),
        ("sign", post(PAYMENT, &tampered)),
        ("sign", post(PAYMENT, &unsigned(&good))),
        ("cipher", post(PAYMENT, &spoilt(&good, "encrypted_data", json!(BASE64.encode(&[1; 64]))))),
        ("cipher", post(PAYMENT, &spoilt(&good, "encrypted_data", json!(BASE64.encode(&[1; 33]))))),
        ("cipher", post(PAYMENT, &spoilt(&good, "iv", json!("not base64")))),
        ("content", post(PAYMENT, &sealed(b"no json"))),
        ("content", post(PAYMENT, &sealed(without_amount.as_bytes()))),
        ("content", post(ARREARS, &sealed(b"{}"))),
        ("envelope", post(PAYMENT, &json!({"appid": "wxtest"}))),
        ("envelope", request("POST", PAYMENT, b"")),
        ("envelope", request("POST", PAYMENT, b"{\"appid\":")),
        ("envelope", request("POST", PAYMENT, &vec![b'x'; 64 * 1024])),
        ("too-large", request("POST", PAYMENT, &vec![b'x'; 64 * 1024 + 1])),
        ("too-large", request("POST", PAYMENT, &vec![b'x'; 900 * 1024])),
        ("method", request("GET", PAYMENT, b"")),
        ("method", request("PUT", PAYMENT, sealed(&good).to_string().as_bytes())),
        ("path", post("/", &sealed(&good))),
        ("path", post("/wechat/payment/", &sealed(&good))),
    ];
    let mut expected = std::collections::BTreeMap::<&str, u64>::new();
    for (cause, request) in &wrong {
        let begins = String::from_utf8_lossy(&request[..request.len().min(400)]).into_owned();
        assert_eq!(site.caller.send(request), refusal(), "{cause}: {begins}");
        *expected.entry(cause).or_default() += 1;
    }
    for (cause, count) in expected {
        assert_eq!(site.refused_for(cause), count, "{cause}");
    }
    let story = site.show(&ride);
    assert_eq!((&story["state"], events(&story).last()), (&json!("accepted"), Some(&"accepted")));
    let log = site.gate.log();
    assert!(!log.contains("oTest") && !log.contains(SIGN_KEY) && log.contains("its signature is wrong"), "{log}");
    assert!(site.caller.payment(&paid(&ride)), "and the right one is taken");
}

#[test]
fn what_is_no_http_or_has_a_long_head_is_answered_as_http_has_it_and_counted() {
    let site = Site::new();
    let long_head = format!("POST {PAYMENT} HTTP/1.1\r\nx: {}", "y".repeat(16 * 1024));
    for (sent, status) in [(&b"\x16\x03\x01 a handshake of TLS\r\n\r\n"[..], "400"), (long_head.as_bytes(), "431")] {
        let mut line = site.caller.connect();
        line.write_all(sent).unwrap();
        let said = answer(&mut line).unwrap_err();
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")) && said.ends_with("\r\n\r\n"), "{said:?}");
    }
    site.gate.wait("both are counted", || site.refused_for("unreadable") == 2);
}

#[test]
fn a_slow_caller_is_refused_and_one_without_a_place_too() {
    let mut site = Site::new();
    let ride = site.ride(&code("SLOW", 1));
    let begun = |caller: &Caller| {
        let mut line = caller.connect();
        line.write_all(b"POST /wechat/payment HTTP/1.1\r\nHost: gate\r\nContent-Length: 1000\r\n\r\n{").unwrap();
        line
    };
    let mut slow: Vec<_> = (0..64).map(|_| begun(&site.caller)).collect();
    // The places are taken when the kernel's queue is; until then the next caller has one.
    site.gate
        .wait("the 65th is refused", || site.caller.post(PAYMENT, &json!({})) == refusal() && site.refused_for("too-many") > 0);
    for line in &mut slow {
        assert_eq!(answer(line), Ok(refusal()), "a slow caller");
    }
    assert_eq!(site.refused_for("too-slow"), 64);
    assert!(site.caller.payment(&paid(&ride)), "there are places again");
}

#[test]
fn while_the_ledger_cannot_be_written_callbacks_are_refused_and_taken_when_told_again() {
    let mut site = Site::new();
    let ride = site.ride(&code("FULL", 1));
    site.gate.fail_writes_beyond(Some(0));
    assert!(!site.caller.payment(&paid(&ride)));
    assert!(site.refused_for("ledger") >= 1);
    site.gate.fail_writes_beyond(None);
    site.gate.wait("it is taken", || site.caller.payment(&paid(&ride)));
    assert_eq!(site.state(&ride), "paid");
}

#[test]
fn scans_open_while_a_thousand_connections_hang() {
    let mut site = Site::new();
    let caller = site.caller.clone();
    allow_open_files(2048);
    let hanging: Vec<TcpStream> = (0..1000).filter_map(|_| hanging(&caller)).collect();
    assert!(hanging.len() > 900, "only {} connections came about", hanging.len());
    for number in 0..5 {
        site.gate.scan("in", &code("HANG", number));
        site.gate.wait_opens(number + 1);
    }
    drop(hanging);
    let rides: Vec<_> = (0..5).map(|number| code("HANG", number)).collect();
    site.gate.wait_drained();
    site.wechat.assert_charged_exactly(&rides);
    site.gate.wait("callbacks are taken again", || site.caller.payment(&paid(&site.sent(&rides[0]))));
}

/// For this whole program, where it may have fewer; the daemon has been started before.
fn allow_open_files(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(count, |maximum| maximum.min(count));
    if limit.current.is_some_and(|now| now < current) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).unwrap();
    }
}

#[test]
fn callers_without_a_place_cost_no_memory_however_much_they_send() {
    const CROWD: usize = 60;
    let site = Site::new();
    let _inside: Vec<_> = (0..64).filter_map(|_| hanging(&site.caller)).collect();
    let peak_kib = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", site.gate.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    site.gate
        .wait("every place is taken", || site.caller.post(PAYMENT, &json!({})) == refusal() && site.refused_for("too-many") > 0);
    let before = peak_kib();
    let mut crowd: Vec<_> = (0..CROWD).map(|_| site.caller.connect()).collect();
    let part = request("POST", PAYMENT, &vec![b'x'; 1024 * 1024]);
    for line in &mut crowd {
        // One that has been refused meanwhile takes no more.
        let _ = line.write_all(&part[..part.len() - 1]);
    }
    for line in &mut crowd {
        drop(answer(line));
    }
    let grown = peak_kib() - before;
    assert!(grown < 24 * 1024, "{grown} KiB for {CROWD} callers without a place");
}

/// A connection that says half of a request, and no more.
fn hanging(caller: &Caller) -> Option<TcpStream> {
    let mut line = TcpStream::connect(("127.0.0.1", caller.port)).ok()?;
    // One that was closed at once is refused, which is as good.
    let _ = line.write_all(b"POST /wechat/payment HTTP/1.1\r\nHost: g");
    Some(line)
}

#[test]
fn a_stop_is_quick_though_callers_hang() {
    let mut site = Site::new();
    let ride = site.ride(&code("STOP", 1));
    assert!(site.caller.payment(&paid(&ride)));
    let _hanging: Vec<_> = (0..100).filter_map(|_| hanging(&site.caller)).collect();
    let began = Instant::now();
    site.gate.stop_cleanly();
    assert!(began.elapsed() < Duration::from_secs(5), "the stop took {:?}", began.elapsed());
    assert!(TcpStream::connect(("127.0.0.1", site.caller.port)).is_err(), "still listening");
}

#[test]
fn a_port_that_is_taken_is_said_in_one_sentence() {
    let (wechat, caller) = (WeChat::start(), Caller::new());
    let _taken = std::net::TcpListener::bind(("127.0.0.1", caller.port)).unwrap();
    let gate = caller.settings(Gate::beside(&wechat)).prepare();
    let said = gate.cli(&["run"]);
    assert_eq!(said.code, Some(70), "{said:?}");
    assert!(said.stderr.contains("[callback] listen"), "{said:?}");
}

#[test]
fn many_callbacks_at_once_are_all_answered_and_kept() {
    let mut site = Site::new();
    let codes: Vec<_> = (0..20).map(|number| code("MANY", number)).collect();
    for code in &codes {
        site.gate.scan("in", code);
    }
    site.gate.wait("all are accepted", || site.gate.rows_in("accepted").len() == codes.len());
    let callers: Vec<_> = codes
        .iter()
        .map(|code| {
            let (caller, content) = (site.caller.clone(), paid(&site.sent(code)));
            thread::spawn(move || caller.payment(&content) && caller.payment(&content))
        })
        .collect();
    assert!(callers.into_iter().all(|caller| caller.join().unwrap()));
    assert_eq!(site.gate.rows_in("paid").len(), codes.len());
}

#[test]
fn recorded_exchanges_are_answered_as_they_were() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/callbacks");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let mut site = Site::with(|builder| {
        let builder = builder.file("callback-aes", &read("aes-key")).file("callback-sign", &read("sign-key"));
        builder.set("wechat", "appid", "wxtestvector").set("wechat", "auth", "none")
    });
    for name in ["payment-fail.json", "payment-success.json", "arrears.json"] {
        let exchange: Value = serde_json::from_slice(&read(name)).unwrap();
        let path = exchange["path"].as_str().unwrap();
        assert_eq!(site.caller.post(path, &exchange["request"]), exchange["answer"], "{name}");
    }
    assert_eq!(site.counter("faregate_callback_orders_total{result=\"unknown\"}"), 4);
    site.gate.stop_cleanly();
}
