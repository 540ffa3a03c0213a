//! The whole gate on one thread, in a time that does not pass by itself: lanes, journeys, ledger, upload and settlement, against a
//! WeChat that fails in every way, clocks that jump, and ends at any moment. What happens follows from the seed alone.
//!
//! The parts are the daemon's own ([`gate`]); in the place of hardware, network and threads stand [`world`] and [`wechat`]. The
//! ledger's file is a real one, in memory where the system has a place for that. Whatever a [`plan`] brings, at its end the network
//! is back and the clock set, and [`judge`] compares what was seen with both books.
//!
//! - `cargo test --release simulation` plays a share. `FAREGATE_SEEDS=20000` plays more, `FAREGATE_SEEDS=endless` until one fails.
//! - `FAREGATE_SEED=7` plays this one alone, or begins with it, and says what happened.

mod gate;
mod judge;
mod plan;
mod wechat;
mod world;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    env, fs,
    panic::{self, AssertUnwindSafe},
    path::Path,
    rc::Rc,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    task::{JoinHandle, LocalSet, spawn_local},
    time::{Instant, sleep},
};

use self::{
    gate::Gate,
    judge::Evidence,
    plan::{Death, Plan, Reboot, Step, Tap, Weather},
    wechat::WeChat,
    world::{Trace, World},
};
use crate::{
    clock::{Stamp, simulated},
    config::{self, NoPassage, Settings},
    journey::Rules,
    ledger::{Decided, OrderNumber, PageRequest, Reason, STATES, VoidOrder, Written},
    sandbox::{Freshness, Random, seal},
    settlement::Receiver,
    wechat::Opener,
};

/// Played when nobody asks for more: the same each time, so that a change is judged by itself.
const SEEDS: u64 = 400;
/// What is drawn for one purpose follows from nothing that is drawn for another.
const PLAN: u64 = 0x706c_616e;
const WECHAT: u64 = 0x7765_6368_6174;
/// 2026-11-23T05:34:30Z
const BEGIN_UTC_MS: i64 = 1_795_412_070_123;
/// How long a passenger looks at the gate: longer than `open_within`.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a slow reader's bytes are on their way: nearly as long as `open_within`.
const SLOW: Duration = Duration::from_millis(2_950);
/// A phone shows a code no longer.
const CODE_SHOWN: Duration = Duration::from_secs(40);
/// What the program needs to be up again, and the machine.
const RESTART: Duration = Duration::from_secs(2);
const BOOT: Duration = Duration::from_secs(20);
/// After so much time with everything well, everything must have come to its end.
const HEALING: (u32, Duration) = (40, Duration::from_secs(20));

/// What came of a seed: what is wrong, beside everything that happened.
struct Course {
    wrong: Vec<String>,
    trace: Trace,
}

/// Plays a seed from its beginning to its end; what happens is written down in `trace`.
fn play(seed: u64, trace: &Trace) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        simulated::install(seed, BEGIN_UTC_MS);
        let plan = Plan::drawn(&mut Random::new(seed ^ PLAN));
        let mut player = Player::new(seed, &plan, trace.clone());
        player.world.tell(format_args!("seed {seed}\n{}", plan.settings));
        for step in plan.steps {
            player.world.tell(format_args!("-- {step:?}"));
            player.take(step).await;
        }
        player.heal().await;
        player.judge().await;
        player.world.wrong()
    })
}

struct Player {
    /// Goes with the value.
    _folder: TempDir,
    settings: Settings,
    world: World,
    wechat: WeChat,
    gate: Option<Gate>,
    /// Where callbacks arrive, while the program runs.
    receiver: Rc<RefCell<Option<Receiver>>>,
    began: Instant,
    /// What each passenger's phone showed last, and since when.
    codes: BTreeMap<u64, (Vec<u8>, Instant)>,
    codes_made: u32,
    voided: BTreeSet<String>,
    courier: JoinHandle<()>,
}

impl Player {
    fn new(seed: u64, plan: &Plan, trace: Trace) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        let settings = settings(folder.path(), plan);
        let (world, wechat) = (World::new(&plan.sensors, &settings.ledger.path, trace), WeChat::new(seed ^ WECHAT));
        let receiver = Rc::default();
        let courier =
            spawn_local(deliver_letters(wechat.clone(), keys(&settings), settings.clone(), Rc::clone(&receiver), world.clone()));
        let mut player = Self {
            _folder: folder,
            settings,
            world,
            wechat,
            gate: None,
            receiver,
            began: Instant::now(),
            codes: BTreeMap::new(),
            codes_made: 0,
            voided: BTreeSet::new(),
            courier,
        };
        player.start();
        player
    }

    fn gate(&self) -> &Gate {
        self.gate.as_ref().unwrap()
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Wait(duration) => sleep(duration).await,
            Step::Taps(taps) => {
                self.show(&taps);
                self.world.answers(PATIENCE).await;
                // Two codes of one moment come from two readers.
                sleep(Duration::from_millis(50)).await;
            }
            Step::Pass { lane } => self.pass(lane).await,
            Step::Press { lane } => self.press(lane).await,
            Step::Fire { lane, is_on } => self.fire_alarm(lane, is_on).await,
            Step::Jam { lane, is_jammed } => self.world.jam(lane, is_jammed),
            Step::Weather(weather) => self.wechat.turn(weather),
            Step::ClockGoesWrong { by_ms } => simulated::set_utc(Stamp::now().utc_ms + by_ms, false),
            Step::ClockIsSet => simulated::set_utc(self.true_utc_ms(), true),
            Step::Kill(death) => self.kill(death).await,
            Step::Stop { reboot } => self.stop(reboot).await,
            Step::NewFare { fen } => self.new_fare(fen).await,
            Step::RetryParked => self.retry_parked().await,
            Step::Void => self.void().await,
        }
    }

    // ---- at the gate ---------------------------------------------------------------------------------------------------------

    fn show(&mut self, taps: &[Tap]) {
        for tap in taps {
            let code = self.code(tap);
            self.world.shows_code(tap.lane, code.clone());
            self.gate().reads(tap.lane, code, if tap.is_slow { SLOW } else { Duration::ZERO });
        }
    }

    fn code(&mut self, tap: &Tap) -> Vec<u8> {
        let now = Instant::now();
        let shown = self.codes.get(&tap.passenger).filter(|(_, since)| tap.is_old_code && now < *since + CODE_SHOWN);
        if let Some((code, _)) = shown {
            return code.clone();
        }
        self.codes_made += 1;
        let code = format!("P{:03}-{:05}", tap.passenger, self.codes_made).into_bytes();
        self.codes.insert(tap.passenger, (code.clone(), now));
        code
    }

    async fn pass(&self, lane: usize) {
        if !self.world.has_sensor(lane) {
            return;
        }
        self.world.passes(lane);
        self.gate().inputs[lane].passage(true);
        sleep(Duration::from_millis(400)).await;
        self.gate().inputs[lane].passage(false);
        sleep(Duration::from_millis(100)).await;
    }

    async fn press(&self, lane: usize) {
        if !self.world.opens_for_a_button(lane) {
            return;
        }
        // Whoever was opened for is through, so that the next edge is the button's.
        sleep(Duration::from_secs(1)).await;
        self.world.presses(lane);
        self.gate().inputs[lane].exit_button(true);
        sleep(Duration::from_millis(300)).await;
        self.gate().inputs[lane].exit_button(false);
        sleep(Duration::from_secs(1)).await;
    }

    async fn fire_alarm(&self, lane: usize, is_on: bool) {
        sleep(Duration::from_secs(1)).await;
        self.world.fire_alarm(lane, is_on);
        self.gate().inputs[lane].fire_alarm(is_on);
        sleep(Duration::from_secs(1)).await;
    }

    // ---- the program and its machine -----------------------------------------------------------------------------------------

    fn start(&mut self) {
        let gate = Gate::start(&self.settings, &self.world, &self.wechat);
        self.receiver.replace(Some(gate.receiver.clone()));
        self.gate = Some(gate);
    }

    async fn kill(&mut self, death: Death) {
        self.show(&death.taps);
        let gate = self.gate.take().unwrap();
        gate.kill(death.turns).await;
        self.receiver.replace(None);
        self.come_up_again(death.reboot).await;
    }

    async fn stop(&mut self, reboot: Option<Reboot>) {
        self.stop_in_order().await;
        self.come_up_again(reboot).await;
    }

    async fn stop_in_order(&mut self) {
        self.receiver.replace(None);
        if self.gate.take().unwrap().stop().await != Written::All {
            self.world.is_wrong("a stop in order has not written everything");
        }
    }

    async fn come_up_again(&mut self, reboot: Option<Reboot>) {
        self.world.program_ends();
        match reboot {
            None => sleep(RESTART).await,
            Some(reboot) => {
                sleep(BOOT).await;
                simulated::reboot(if reboot == Reboot::Battery { self.true_utc_ms() + 3000 } else { 0 });
            }
        }
        self.start();
        self.world.program_begins(&self.gate().inputs);
    }

    /// The right time.
    fn true_utc_ms(&self) -> i64 {
        BEGIN_UTC_MS + i64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    // ---- people --------------------------------------------------------------------------------------------------------------

    async fn new_fare(&mut self, fen: i64) {
        self.settings.fare.flat_fen = fen;
        self.gate().network.set_rules(Rules::new(&self.settings, None)).await.unwrap();
    }

    async fn retry_parked(&self) {
        let mut next = Some(0);
        while let Some(after_id) = next {
            next = self.gate().network.retry_parked(after_id, 0).await.unwrap().next_after_id;
        }
    }

    async fn void(&mut self) {
        let newest = |state: &str| PageRequest { state: Some(state.to_owned()), after_id: 0, limit: 100 };
        let mut rows = self.gate().network.page(newest("pending")).await.unwrap().rows;
        rows.extend(self.gate().network.page(newest("held")).await.unwrap().rows);
        let Some(row) = rows.into_iter().max_by_key(|row| row.id) else { return };
        let order = OrderNumber::parse(&row.order).unwrap();
        let void = VoidOrder { order, reason: Reason::parse("a complaint").unwrap(), even_if_sent: false, uid: 0 };
        let decided = self.gate().network.void(void).await.unwrap();
        self.world.tell(format_args!("void {}: {decided:?}", row.order));
        if decided == Decided::Done {
            self.voided.insert(row.order);
        }
    }

    // ---- the end -------------------------------------------------------------------------------------------------------------

    /// Everything is well again, for long enough.
    async fn heal(&mut self) {
        self.world.tell("-- everything is well again");
        for lane in 0..self.settings.lanes.len() {
            self.world.jam(lane, false);
            self.fire_alarm(lane, false).await;
        }
        self.wechat.turn(Weather::Fine);
        simulated::set_utc(self.true_utc_ms(), true);
        // Over the longest journey, then until nothing waits.
        sleep(Duration::from_secs(200)).await;
        for _ in 0..HEALING.0 {
            self.retry_parked().await;
            sleep(HEALING.1).await;
            let totals = self.gate().network.totals().await.unwrap();
            let pending = STATES.iter().position(|state| *state == "pending").unwrap();
            if totals.deductions[pending] == 0 && self.wechat.next_letter_at().is_none() {
                return;
            }
        }
        self.world.is_wrong("deductions still wait to be sent, or callbacks to be received");
    }

    async fn judge(&mut self) {
        self.stop_in_order().await;
        if self.courier.is_finished() {
            self.world.is_wrong("nobody has told of payments any more");
        }
        let (book, wrong) = (self.wechat.book(), self.wechat.wrong());
        for wrong in wrong {
            self.world.is_wrong(wrong);
        }
        let ledger = &self.settings.ledger.path;
        let turnstiles = self.settings.lanes.iter().map(|lane| &lane.turnstile);
        let voids_unpassed: Vec<_> = turnstiles.map(|turnstile| turnstile.no_passage == NoPassage::Void).collect();
        Evidence { world: &self.world, book: &book, voided: &self.voided, ledger, voids_unpassed: &voids_unpassed }.judge();
    }
}

/// The settings of a plan, read as the daemon reads them.
fn settings(folder: &Path, plan: &Plan) -> Settings {
    let callback = "[callback]\nlisten = \"127.0.0.1:8480\"\npayment_path = \"/payment\"\narrears_path = \"/arrears\"\n\
                    aes_key_file = \"callback-aes\"\naes_key_encoding = \"hex\"\nsign_key_file = \"callback-sign\"\n";
    let path = folder.join("faregate.toml");
    let text = plan.settings.replace("[ledger]\n", &format!("[ledger]\npath = \"{}\"\n", folder.join("ledger.db").display()));
    fs::write(folder.join("callback-aes"), "00112233445566778899aabbccddeeff").unwrap();
    fs::write(folder.join("callback-sign"), "key").unwrap();
    fs::write(&path, text + callback).unwrap();
    let loaded = config::load(&path);
    let mut settings = loaded.settings.unwrap_or_else(|| panic!("{:?}", loaded.findings));
    for (lane, has_sensor) in settings.lanes.iter_mut().zip(&plan.sensors) {
        lane.turnstile.inputs.passage = *has_sensor;
    }
    settings
}

fn keys(settings: &Settings) -> Opener {
    Opener::read(&settings.wechat, settings.callback.as_ref().unwrap()).unwrap()
}

/// Tells the gate what WeChat has to tell, until it is acknowledged.
async fn deliver_letters(wechat: WeChat, keys: Opener, settings: Settings, receiver: Rc<RefCell<Option<Receiver>>>, world: World) {
    let callback = settings.callback.unwrap();
    loop {
        sleep(Duration::from_millis(250)).await;
        for letter in wechat.letters_due() {
            let path = if letter.is_repayment { &callback.arrears_path } else { &callback.payment_path };
            let envelope = seal(&keys, &letter.content, Freshness { iv: [7; 16], nonce: [7; 8] }).unwrap();
            let receiver = receiver.borrow().clone();
            let is_received = match receiver {
                Some(receiver) => receiver.receives(path, &envelope).await,
                None => false,
            };
            world.tell(format_args!("told of {}: {}, received: {is_received}", letter.order, letter.content["trade_state"]));
            wechat.came_back(&letter, is_received);
        }
    }
}

// ---- the seeds -------------------------------------------------------------------------------------------------------------------

/// Plays on two threads until a seed fails or the last has been played.
fn play_all(first: u64, count: u64) -> Option<(u64, Course)> {
    let (next, failed) = (AtomicU64::new(first), Mutex::new(None));
    let work = || {
        while failed.lock().unwrap().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - first >= count {
                break;
            }
            let trace = Trace::default();
            let wrong = panic::catch_unwind(AssertUnwindSafe(|| play(seed, &trace)));
            simulated::remove();
            let wrong = wrong.unwrap_or_else(|_| vec!["a panic, see above".to_owned()]);
            if !wrong.is_empty() {
                failed.lock().unwrap().get_or_insert((seed, Course { wrong, trace }));
            }
        }
    };
    thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    failed.into_inner().unwrap()
}

#[test]
fn whatever_happens_every_opening_is_recorded_first_and_every_fen_is_charged_once_and_explained() {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number of seeds"));
    let first = env::var("FAREGATE_SEED").ok().map(|text| number(&text));
    let (first, count) = match (first, env::var("FAREGATE_SEEDS").ok().as_deref()) {
        // Somewhere else each time; the rest of the numbers is never reached.
        (None, Some("endless")) => (u64::from(getrandom::u32().unwrap()) << 16, u64::MAX),
        (first, Some("endless")) => (first.unwrap_or(0), u64::MAX),
        (first, Some(count)) => (first.unwrap_or(0), number(count)),
        (Some(first), None) => (first, 1),
        (None, None) => (0, SEEDS),
    };
    let began = std::time::Instant::now();
    if let Some((seed, course)) = play_all(first, count) {
        panic!("{}\nFAREGATE_SEED={seed} cargo test simulation replays it\n{}", course.trace.text(), course.wrong.join("\n"));
    }
    println!("{count} seeds in {:.1} s", began.elapsed().as_secs_f64());
}

#[test]
fn a_seed_is_replayed_exactly() {
    for seed in [1, 2, 3] {
        let traces = [(); 2].map(|()| {
            let trace = Trace::default();
            play(seed, &trace);
            trace.text()
        });
        simulated::remove();
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
}
