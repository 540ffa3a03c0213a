//! Every answer that WeChat may give, on the real program: what it means for the row, for the queue, and for people.

use std::{
    collections::HashSet,
    fs,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::support::{Answer, Demand, Gate, WeChat, code, codes, gate::Builder, tls::Front, wechat::Deduction};

/// Longer than any test: a queue that pauses for so long does nothing more.
const FOR_EVER: &str = "1h";
/// Several retries fit in here.
const WHILE: Duration = Duration::from_millis(800);

fn builder(wechat: &WeChat) -> Builder {
    Gate::beside(wechat)
}

/// A gate whose queue, once it pauses or waits, does so for the rest of the test.
fn gate_that_waits_for_ever(wechat: &WeChat) -> Gate {
    builder(wechat).set("upload", "retry_initial", FOR_EVER).set("upload", "retry_max", FOR_EVER).start()
}

/// Scans the first so many codes of this name.
fn scan(gate: &mut Gate, name: &str, count: usize) {
    for code in codes(name, 0..count) {
        gate.scan("in", &code);
    }
    gate.wait_opens(count);
}

fn wait_accepted(gate: &Gate, count: usize) {
    gate.wait("all are accepted", || gate.rows_in("accepted").len() == count);
}

/// Until the upload is in this state; its reason and the alarms.
fn wait_upload(gate: &Gate, state: &str) -> (String, String) {
    let mut status = Value::Null;
    gate.wait(&format!("the upload is {state}"), || {
        status = gate.status();
        status["upload"]["state"] == state
    });
    (status["upload"]["reason"].as_str().unwrap_or_default().to_owned(), status["alarms"].to_string())
}

fn assert_no_row_burnt(gate: &Gate, count: usize) {
    let rows = gate.rows_in("pending");
    assert_eq!(rows.len(), count, "{rows:?}");
    assert!(rows.iter().all(|row| row["attempts"] == 0), "{rows:?}");
}

// ---- the whole queue waits ---------------------------------------------------------------------------------------------------

#[test]
fn too_many_requests_with_retry_after_is_obeyed_and_no_attempt_is_made_before() {
    let wechat = WeChat::start();
    wechat.answer_with(answer_first(Answer::TooMany { retry_after_s: 1 }));
    let mut gate = builder(&wechat).start();
    scan(&mut gate, "RETRY-AFTER", 1);
    wait_accepted(&gate, 1);
    let came: Vec<_> = wechat.deductions().iter().map(|deduction| deduction.at).collect();
    assert!(came.len() == 2 && came[1].duration_since(came[0]) >= SignedDuration::from_millis(990), "{came:?}");
    wechat.assert_charged_exactly(&codes("RETRY-AFTER", 0..1));
}

#[test]
fn a_queue_told_to_come_back_later_asks_nothing_meanwhile_for_new_rows_either() {
    let wechat = WeChat::start();
    wechat.answer(Answer::TooMany { retry_after_s: 3600 });
    let mut gate = builder(&wechat).start();
    gate.scan("in", &code("LATER", 0));
    let (reason, _) = wait_upload(&gate, "waiting");
    assert!(reason.contains("HTTP status 429"), "{reason}");
    gate.scan("in", &code("LATER", 1));
    gate.wait_opens(2);
    thread::sleep(WHILE);
    assert_eq!((wechat.requests(), gate.rows_in("pending").len()), (1, 2));
}

#[test]
fn a_queue_asked_to_slow_down_pauses_and_burns_no_row() {
    for errcode in [45011, 45009] {
        let wechat = WeChat::start();
        wechat.answer(Answer::ErrCode(errcode));
        let mut gate = builder(&wechat).set("upload", "concurrency", 1).start();
        scan(&mut gate, "SLOW-DOWN", 3);
        let (reason, alarms) = wait_upload(&gate, "paused");
        assert!(reason.contains(&errcode.to_string()), "{reason}");
        assert_eq!(alarms.contains("quota of requests for this day"), errcode == 45009, "{alarms}");
        thread::sleep(WHILE);
        assert_eq!(wechat.requests(), 1, "the queue as a whole waits");
        assert_no_row_burnt(&gate, 3);
    }
}

#[test]
fn what_an_operator_must_set_right_pauses_the_queue_with_an_alarm_and_burns_no_row() {
    let numbers = [40013, 40066, 40125, 40164, 40243, 43002, 43003, 45035, 48001, 48004, 61004, 89503];
    let errcodes = numbers.map(|number| (Answer::ErrCode(number), format!("errcode {number}")));
    let statuses = [401, 403, 404].map(|status| (Answer::Status(status), format!("HTTP status {status}")));
    for (answer, told) in errcodes.into_iter().chain(statuses) {
        let wechat = WeChat::start();
        wechat.answer(answer);
        let mut gate = gate_that_waits_for_ever(&wechat);
        scan(&mut gate, "OPERATOR", 1);
        let (reason, alarms) = wait_upload(&gate, "paused");
        assert!(reason.contains(&told) && alarms.contains(&told), "{answer:?}: {reason}, alarms {alarms}");
        gate.scan("in", &code("OPERATOR", 1));
        gate.wait_opens(2);
        assert_no_row_burnt(&gate, 2);
        assert_eq!(wechat.requests(), 1, "{told}");
    }
}

#[test]
fn an_operators_fault_is_probed_one_row_at_a_time_and_ends_by_itself() {
    let wechat = WeChat::start();
    wechat.answer(Answer::ErrCode(40164));
    let mut gate = builder(&wechat).set("upload", "concurrency", 1).start();
    scan(&mut gate, "IP-LIST", 3);
    gate.wait("another row is probed, too: it could have been the first one's fault", || wechat.deductions().len() >= 4);
    assert_no_row_burnt(&gate, 3);
    let probes: Vec<_> = wechat.deductions().iter().map(Deduction::code).collect();
    let [first, second] = [code("IP-LIST", 0), code("IP-LIST", 1)];
    assert_eq!(probes[..4], [first.clone(), first.clone(), first, second], "three times each, oldest first");
    wechat.answer(Answer::Ok);
    wait_accepted(&gate, 3);
    gate.wait("the alarm ends", || gate.status()["alarms"] == json!([]));
    assert_eq!(gate.log().matches("refuses this operator's requests").count(), 1, "told once\n{}", gate.log_tail());
    wechat.assert_charged_exactly(&codes("IP-LIST", 0..3));
}

/// One row meets `fault` whenever it comes, the others are taken; their number is delivered nevertheless.
fn one_rows_trouble_stops_nobody_else(fault: Answer) {
    let wechat = WeChat::start();
    let bad = code("ALONE", 0);
    wechat.answer_with(move |deduction| if deduction.code() == bad { fault } else { Answer::Ok });
    let builder = builder(&wechat).set("upload", "retry_initial", "20ms").set("upload", "retry_max", "50ms");
    let mut gate = builder.set("upload", "concurrency", 1).start();
    scan(&mut gate, "ALONE", 6);
    wait_accepted(&gate, 5);
    wait_for_request_of(&gate, &wechat, &code("ALONE", 0), 6);
    gate.scan("in", &code("ALONE", 6));
    wait_accepted(&gate, 6);
    assert_no_row_burnt(&gate, 1);
    gate.wait("a person sees it", || gate.status()["alarms"].to_string().contains("while others are taken: 1"));
    assert_eq!(gate.log().matches("and waits alone").count(), 1, "told once\n{}", gate.log_tail());
    wechat.answer(Answer::Ok);
    wait_accepted(&gate, 7);
    gate.wait("the alarm ends", || gate.status()["alarms"] == json!([]));
    wechat.assert_charged_exactly(&codes("ALONE", 0..7));
}

/// Until this code has come so often.
fn wait_for_request_of(gate: &Gate, wechat: &WeChat, code: &[u8], times: usize) {
    let times_now = || wechat.deductions().iter().filter(|deduction| deduction.code() == code).count();
    gate.wait(&format!("{times} requests of one row"), || times_now() >= times);
}

#[test]
fn a_row_that_alone_is_refused_in_the_operators_class_stops_nobody_else() {
    one_rows_trouble_stops_nobody_else(Answer::ErrCode(48001));
}

#[test]
fn a_row_that_alone_is_refused_with_403_stops_nobody_else() {
    one_rows_trouble_stops_nobody_else(Answer::Status(403));
}

#[test]
fn a_row_whose_token_alone_is_always_refused_stops_nobody_else() {
    one_rows_trouble_stops_nobody_else(Answer::ErrCode(40001));
}

// ---- tokens ------------------------------------------------------------------------------------------------------------------

#[test]
fn each_error_about_the_token_renews_it_once_and_sends_the_same_bytes() {
    for errcode in [40001, 40014, 41001, 42001] {
        let wechat = WeChat::start();
        wechat.answer_with(answer_first(Answer::ErrCode(errcode)));
        let mut gate = gate_that_waits_for_ever(&wechat);
        scan(&mut gate, "TOKEN", 1);
        wait_accepted(&gate, 1);
        assert_eq!((wechat.token_requests(), wechat.requests()), (2, 2), "errcode {errcode}");
        wechat.assert_charged_exactly(&codes("TOKEN", 0..1));
    }
}

#[test]
fn a_token_refused_twice_in_a_row_pauses_the_queue_with_an_alarm_and_burns_no_row() {
    let wechat = WeChat::start();
    wechat.answer(Answer::ErrCode(40001));
    let mut gate = gate_that_waits_for_ever(&wechat);
    scan(&mut gate, "TOKEN-TWICE", 1);
    let (reason, alarms) = wait_upload(&gate, "paused");
    assert!(reason.contains("access token") && reason.contains("40001"), "{reason}");
    assert!(alarms.contains("40001"), "{alarms}");
    gate.scan("in", &code("TOKEN-TWICE", 1));
    gate.wait_opens(2);
    assert_no_row_burnt(&gate, 2);
    assert_eq!((wechat.token_requests(), wechat.requests()), (2, 2));
}

#[test]
fn tokens_refused_again_and_again_are_probed_by_one_row_until_one_is_taken() {
    let wechat = WeChat::start();
    wechat.answer(Answer::ErrCode(40001));
    let mut gate = builder(&wechat).set("upload", "concurrency", 1).start();
    scan(&mut gate, "TOKEN-PROBE", 3);
    gate.wait("it is probed", || wechat.requests() >= 6);
    assert_no_row_burnt(&gate, 3);
    wechat.answer(Answer::Ok);
    wait_accepted(&gate, 3);
    wechat.assert_charged_exactly(&codes("TOKEN-PROBE", 0..3));
}

#[test]
fn tokens_that_end_in_the_middle_of_a_backlog_cost_no_row_and_no_attempt() {
    let mut wechat = WeChat::start();
    wechat.down();
    let mut gate = builder(&wechat).set("turnstile", "pulse", "10ms").set("turnstile", "pulse_gap", "0s").start();
    scan(&mut gate, "TOKEN-ENDS", 30);
    wechat.wear_out_tokens_after(7);
    wechat.up();
    wait_accepted(&gate, 30);
    assert!(wechat.token_requests() >= 4, "{} tokens", wechat.token_requests());
    assert!(gate.rows_in("accepted").iter().all(|row| row["attempts"] == 1));
    wechat.assert_charged_exactly(&codes("TOKEN-ENDS", 0..30));
}

#[test]
fn a_token_of_a_file_is_read_again_after_a_token_error_and_on_sighup() {
    let wechat = WeChat::start();
    wechat.demand(Demand::Token("first"));
    let mut gate = builder(&wechat).set("wechat", "auth", "static-token").set("wechat", "token_file", "token").prepare();
    fs::write(gate.path("token"), "first\n").unwrap();
    gate.start();
    gate.scan("in", &code("TOKEN-FILE", 0));
    wait_accepted(&gate, 1);

    fs::write(gate.path("token"), "second\n").unwrap();
    wechat.demand(Demand::Token("second"));
    gate.scan("in", &code("TOKEN-FILE", 1));
    wait_accepted(&gate, 2);
    assert_eq!(wechat.requests(), 3, "one was refused for its token");

    fs::write(gate.path("token"), "third\n").unwrap();
    wechat.demand(Demand::Token("third"));
    gate.hang_up();
    gate.wait("it is read again", || gate.log().contains("SIGHUP: a static access token"));
    gate.scan("in", &code("TOKEN-FILE", 2));
    wait_accepted(&gate, 3);
    assert_eq!((wechat.requests(), wechat.token_requests()), (4, 0), "none was refused for its token");
    wechat.assert_charged_exactly(&codes("TOKEN-FILE", 0..3));
}

#[test]
fn without_auth_no_token_is_asked_for_and_none_is_sent() {
    let wechat = WeChat::start();
    wechat.demand(Demand::NoQuery);
    let mut gate = builder(&wechat).set("wechat", "auth", "none").start();
    scan(&mut gate, "NO-AUTH", 1);
    wait_accepted(&gate, 1);
    assert_eq!((wechat.requests(), wechat.token_requests()), (1, 0));
    wechat.assert_charged_exactly(&codes("NO-AUTH", 0..1));
}

#[test]
fn an_appsecret_that_is_refused_pauses_the_queue_with_an_alarm_until_it_is_right() {
    let wechat = WeChat::start();
    let mut gate = builder(&wechat).prepare();
    let secret = fs::read(gate.path("secret")).unwrap();
    fs::write(gate.path("secret"), "wrong\n").unwrap();
    gate.start();
    scan(&mut gate, "SECRET", 2);
    let (reason, alarms) = wait_upload(&gate, "paused");
    assert!(reason.contains("40125") && alarms.contains("40125"), "{reason}, alarms {alarms}");
    assert_no_row_burnt(&gate, 2);
    assert_eq!(wechat.requests(), 0);
    fs::write(gate.path("secret"), secret).unwrap();
    wait_accepted(&gate, 2);
    wechat.assert_charged_exactly(&codes("SECRET", 0..2));
}

// ---- answers about one row -----------------------------------------------------------------------------------------------------

#[test]
fn each_code_of_a_bad_row_parks_it_at_once_with_the_answer() {
    let wechat = WeChat::start();
    let numbers = [40003, 44002, 45002, 47001, 50001, 50002];
    let scanned = codes("BAD", 0..numbers.len());
    let known: Vec<_> = scanned.clone();
    wechat.answer_with(move |deduction| {
        let place = known.iter().position(|code| *code == deduction.code()).unwrap();
        Answer::ErrCode(numbers[place])
    });
    let mut gate = builder(&wechat).start();
    scan(&mut gate, "BAD", numbers.len());
    gate.wait("all are parked", || gate.rows_in("parked").len() == numbers.len());
    for (row, number) in gate.rows_in("parked").iter().zip(numbers) {
        assert_eq!((&row["reason"], &row["attempts"]), (&json!("refused"), &json!(1)), "{row}");
        assert!(row["last_error"].as_str().unwrap().contains(&number.to_string()), "{row}");
    }
    assert_eq!((wechat.requests(), &gate.status()["upload"]["state"]), (numbers.len(), &json!("idle")));
}

#[test]
fn the_settings_can_put_a_code_into_every_class() {
    let (accepted, token, transient, slow, operator, park) = (70001, 70002, 70003, 70004, 70005, 70006);
    let classes = json!({"70001": "accepted", "70002": "token", "70003": "transient", "70004": "slow-down", "70005": "operator", "70006": "park"});
    let gate_that_meets = |errcode| {
        let wechat = WeChat::start();
        wechat.answer_with(answer_first(Answer::ErrCode(errcode)));
        let mut gate = builder(&wechat).set("wechat", "errcodes", classes.clone()).start();
        scan(&mut gate, "CLASSES", 1);
        (gate, wechat)
    };
    for (errcode, requests, tokens) in [(accepted, 1, 1), (token, 2, 2), (transient, 2, 1), (operator, 2, 1)] {
        let (gate, wechat) = gate_that_meets(errcode);
        wait_accepted(&gate, 1);
        assert_eq!((wechat.requests(), wechat.token_requests()), (requests, tokens), "errcode {errcode}");
    }
    let (gate, _wechat) = gate_that_meets(slow);
    wait_upload(&gate, "paused");
    let (gate, _wechat) = gate_that_meets(park);
    gate.wait("it is parked", || gate.rows_in("parked").len() == 1);
}

#[test]
fn failed_sends_in_a_row_are_an_alarm_until_one_succeeds() {
    let wechat = WeChat::start();
    wechat.answer(Answer::ErrCode(9_999_999));
    let mut gate = builder(&wechat).set("upload", "unknown_attempts", 3).set("upload", "alarm_after", 3).start();
    scan(&mut gate, "IN-A-ROW", 1);
    gate.wait("it is parked", || gate.rows_in("parked").len() == 1);
    gate.wait("there is an alarm", || gate.status()["alarms"].to_string().contains("3 sends in a row have failed"));
    assert_eq!(gate.log().matches("in a row have failed").count(), 1, "told once\n{}", gate.log_tail());
    wechat.answer(Answer::Ok);
    gate.scan("in", &code("IN-A-ROW", 1));
    wait_accepted(&gate, 1);
    gate.wait("the alarm ends", || gate.status()["alarms"] == json!([]));
}

#[test]
fn answers_that_flap_are_one_alarm_in_the_log_not_one_for_each_row() {
    let wechat = WeChat::start();
    let requests = AtomicUsize::new(0);
    let every_seventh =
        move || if requests.fetch_add(1, Ordering::SeqCst) % 7 == 6 { Answer::Ok } else { Answer::ErrCode(9_999_999) };
    wechat.answer_with(move |_| every_seventh());
    let builder = builder(&wechat).set("upload", "unknown_attempts", 1000).set("upload", "retry_initial", "20ms");
    let mut gate = builder.set("upload", "retry_max", "50ms").set("upload", "concurrency", 1).start();
    scan(&mut gate, "FLAPS", 6);
    wait_accepted(&gate, 6);
    assert!(wechat.requests() >= 42, "{}", wechat.requests());
    assert_eq!(gate.log().matches("in a row have failed").count(), 1, "told once\n{}", gate.log_tail());
}

// ---- repeats of an order that was taken ------------------------------------------------------------------------------------------

/// Takes each order and cuts the line; says `to_repeats` when it comes again.
fn takes_once_then(to_repeats: Answer) -> impl Fn(&Deduction) -> Answer + Send + Sync + 'static {
    let taken = Mutex::new(HashSet::new());
    move |deduction| if taken.lock().unwrap().insert(deduction.order().to_owned()) { Answer::Drop } else { to_repeats }
}

#[test]
fn a_repeat_of_a_taken_order_that_is_answered_with_0_is_accepted() {
    let wechat = WeChat::start();
    wechat.answer_with(takes_once_then(Answer::Ok));
    let mut gate = builder(&wechat).start();
    scan(&mut gate, "REPEAT", 3);
    wait_accepted(&gate, 3);
    wechat.assert_charged_exactly(&codes("REPEAT", 0..3));
}

#[test]
fn a_repeat_of_a_taken_order_with_an_error_that_the_settings_explain_is_accepted() {
    let wechat = WeChat::start();
    wechat.answer_with(takes_once_then(Answer::ErrCode(61011)));
    let mut gate = builder(&wechat).set("wechat", "errcodes", json!({"61011": "accepted"})).start();
    scan(&mut gate, "REPEAT-KNOWN", 3);
    wait_accepted(&gate, 3);
    wechat.assert_charged_exactly(&codes("REPEAT-KNOWN", 0..3));
}

#[test]
fn a_repeat_of_a_taken_order_with_an_error_nobody_explained_waits_for_a_person_and_charges_once() {
    let wechat = WeChat::start();
    wechat.answer_with(takes_once_then(Answer::ErrCode(61011)));
    let mut gate = builder(&wechat).set("upload", "unknown_attempts", 3).start();
    scan(&mut gate, "REPEAT-UNKNOWN", 2);
    gate.wait("both are parked", || gate.rows_in("parked").len() == 2);
    for row in gate.rows_in("parked") {
        assert_eq!((&row["reason"], &row["attempts"]), (&json!("unknown-errcode"), &json!(4)), "{row}");
        assert!(row["last_error"].as_str().unwrap().contains("61011"), "{row}");
    }
    wechat.assert_charged_exactly(&codes("REPEAT-UNKNOWN", 0..2));
}

// ---- answers that are none ---------------------------------------------------------------------------------------------------------

/// The first request of each test is taken and gets `nonsense`; nothing may follow from it but a repeat.
fn nonsense_is_no_answer(nonsense: Answer) {
    let wechat = WeChat::start();
    wechat.answer(nonsense);
    let mut gate = builder(&wechat).start();
    scan(&mut gate, "NONSENSE", 2);
    gate.wait("it is asked again", || wechat.requests() >= 4);
    assert_eq!(gate.rows_in("pending").len(), 2, "{nonsense:?}");
    wechat.answer(Answer::Ok);
    wait_accepted(&gate, 2);
    wechat.assert_charged_exactly(&codes("NONSENSE", 0..2));
}

#[test]
fn an_answer_of_200_that_says_nothing_is_no_answer() {
    for text in ["", "[]", "{}", "null", "{\"errcode\":\"0\"}", "{\"errcode\":0.5}", "{\"errcode\":0", "errcode 0"] {
        nonsense_is_no_answer(Answer::Says(text));
    }
}

#[test]
fn an_answer_of_a_megabyte_is_no_answer() {
    nonsense_is_no_answer(Answer::Megabyte);
}

// ---- TLS -----------------------------------------------------------------------------------------------------------------------------

#[test]
fn a_server_vouched_for_by_the_ca_file_is_trusted() {
    let wechat = WeChat::start();
    let front = Front::before(&wechat.base_url());
    let builder = builder(&wechat).set("wechat", "base_url", front.base_url());
    let mut gate = builder.set("wechat", "ca_file", front.ca_file().to_str().unwrap()).start();
    scan(&mut gate, "TLS", 3);
    wait_accepted(&gate, 3);
    wechat.assert_charged_exactly(&codes("TLS", 0..3));
}

#[test]
fn a_server_that_nobody_trusted_vouches_for_gets_nothing_and_status_says_why() {
    let wechat = WeChat::start();
    let (front, other) = (Front::before(&wechat.base_url()), Front::before(&wechat.base_url()));
    let builder = builder(&wechat).set("wechat", "base_url", front.base_url());
    let mut gate = builder.set("wechat", "ca_file", other.ca_file().to_str().unwrap()).start();
    scan(&mut gate, "TLS-WRONG", 1);
    let (reason, _) = wait_upload(&gate, "waiting");
    assert!(reason.contains("certificate is not trusted (UnknownIssuer); check wechat.ca_file"), "{reason}");
    gate.wait("it is an alarm", || gate.status()["alarms"].to_string().contains("UnknownIssuer"));
    assert_eq!(gate.log().matches("UnknownIssuer").count(), 1, "told once\n{}", gate.log_tail());
    assert_no_row_burnt(&gate, 1);
    assert_eq!((wechat.token_requests(), wechat.requests()), (0, 0));
}

/// The first request gets this answer, all others are taken.
fn answer_first(answer: Answer) -> impl Fn(&Deduction) -> Answer + Send + Sync + 'static {
    let requests = AtomicUsize::new(0);
    move |_| if requests.fetch_add(1, Ordering::SeqCst) == 0 { answer } else { Answer::Ok }
}
