-- Faregate's ledger, version 1.0 (user_version 1000).
--
-- The schema itself refuses what must never happen: an order number or a request body that changes, a state that goes down in
-- rank, a row that disappears unsettled. Times: *_utc_ms since 1970, *_boottime_ms since the boot in the column beside.

-- One row per boot of the machine, so that a record names its boot in a few bytes.
CREATE TABLE boot (
    id INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL UNIQUE
) STRICT;

-- Admitted codes and passengers, for as long as they block others; small, so that a scan's look-up touches few pages.
CREATE TABLE seen (
    seq INTEGER PRIMARY KEY,
    code_digest BLOB NOT NULL,
    passenger BLOB NOT NULL,
    lane TEXT NOT NULL,
    at_utc_ms INTEGER NOT NULL,
    boot INTEGER NOT NULL REFERENCES boot (id),
    at_boottime_ms INTEGER NOT NULL,
    clock_synchronized INTEGER NOT NULL,
    deduction INTEGER,
    journey INTEGER
) STRICT;
CREATE INDEX seen_code ON seen (code_digest, seq);
CREATE INDEX seen_passenger ON seen (passenger, seq);

-- Trips that begin with one tap and end with another.
CREATE TABLE journey (
    id INTEGER PRIMARY KEY,
    number TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'exited', 'replaced', 'unfinished', 'taken-back')),
    gate TEXT NOT NULL,
    lane TEXT NOT NULL,
    station TEXT NOT NULL,
    passenger BLOB NOT NULL,
    passenger_tail TEXT NOT NULL,
    -- The entry's code: what a deduction is sent with as start_qrcode, or as qrcode when there is no exit.
    code BLOB NOT NULL,
    code_digest BLOB NOT NULL,
    opening TEXT NOT NULL CHECK (opening IN ('waiting', 'opened', 'unconfirmed', 'late', 'not-opened', 'no-passage')),
    -- As in deduction.
    waiting_from INTEGER CHECK (waiting_from < id),
    awaits_passage INTEGER NOT NULL,
    opened_utc_ms INTEGER,
    passed_utc_ms INTEGER,
    -- Whether it was given up: an exit that is taken back leaves it so again.
    was_unfinished INTEGER NOT NULL DEFAULT 0,
    -- The passenger's journey that ended with this one's entry: open again when this one is taken back.
    ended INTEGER,
    -- Its deduction: the one that is charged, else the latest.
    deduction INTEGER,
    -- The deduction that was recorded for its exit, while it is left by that.
    left_by INTEGER,
    created_utc_ms INTEGER NOT NULL,
    created_boot INTEGER NOT NULL REFERENCES boot (id),
    created_boottime_ms INTEGER NOT NULL,
    clock_synchronized INTEGER NOT NULL
) STRICT;
-- A passenger is on one journey at a time.
CREATE UNIQUE INDEX journey_of_passenger ON journey (passenger) WHERE state = 'open';
CREATE INDEX journey_passenger ON journey (passenger, id);
-- What the sweep looks at.
CREATE INDEX journey_open ON journey (id) WHERE state = 'open';
CREATE INDEX journey_awaits ON journey (id) WHERE awaits_passage;

CREATE TABLE deduction (
    id INTEGER PRIMARY KEY,
    order_number TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('held', 'pending', 'accepted', 'paid', 'unpaid', 'parked', 'void')),
    kind TEXT NOT NULL,
    reason TEXT,
    flags TEXT NOT NULL DEFAULT '',
    gate TEXT NOT NULL,
    lane TEXT NOT NULL,
    station TEXT NOT NULL,
    -- The transit line, as the passenger's bill names it.
    line TEXT NOT NULL,
    -- The journey that this is charged for, and where that began.
    journey INTEGER,
    start_station TEXT,
    -- Names the fare table that the price was looked up in.
    fare_digest TEXT,
    passenger BLOB NOT NULL,
    passenger_tail TEXT NOT NULL,
    code_digest BLOB NOT NULL,
    original_fen INTEGER NOT NULL CHECK (original_fen >= 0),
    total_fen INTEGER NOT NULL CHECK (total_fen BETWEEN 0 AND original_fen),
    paid_fen INTEGER,
    start_utc_ms INTEGER NOT NULL,
    end_utc_ms INTEGER,
    has_start_code INTEGER NOT NULL DEFAULT 0,
    -- The request's bytes, for rows that may come to be sent.
    body BLOB,
    -- 'none': recorded without an opening of its own.
    opening TEXT NOT NULL CHECK (opening IN ('none', 'waiting', 'opened', 'unconfirmed', 'late', 'not-opened')),
    -- The first row that was 'waiting' when this one was recorded, if there was one: a start looks for what the last run left
    -- undecided from where the last row says, and no scan pays for an index.
    waiting_from INTEGER CHECK (waiting_from < id),
    -- While the row is held for a passage: the state that follows it.
    after_passage TEXT CHECK (after_passage IN ('held', 'pending', 'parked')),
    -- Openings for it whose passage is waited for.
    awaits INTEGER NOT NULL DEFAULT 0,
    -- Whether WeChat may charge it although it has not said so: a request that was answered by no clear refusal.
    sent INTEGER NOT NULL DEFAULT 0,
    -- Whether a person had it sent again: it is then sent whatever its age.
    retried INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    unknown_answers INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    created_utc_ms INTEGER NOT NULL,
    created_boot INTEGER NOT NULL REFERENCES boot (id),
    created_boottime_ms INTEGER NOT NULL,
    clock_synchronized INTEGER NOT NULL,
    accepted_utc_ms INTEGER,
    settled_utc_ms INTEGER,
    transaction_id TEXT,
    CHECK (state <> 'pending' OR body IS NOT NULL)
) STRICT;
-- What somebody still has to do something about, and nothing else: empty at night, whatever the table holds.
CREATE INDEX deduction_open ON deduction (state, id) WHERE state IN ('held', 'pending', 'unpaid', 'parked');
-- What one passenger has not paid yet; all that a limit on it needs, without looking at the rows.
CREATE INDEX deduction_exposed ON deduction (passenger, total_fen, state) WHERE state IN ('held', 'pending', 'parked');
-- Who owes: where `[deny] unpaid` says so, a passenger with a row here is not let in.
CREATE INDEX deduction_unpaid ON deduction (passenger) WHERE state = 'unpaid';
-- What may be removed one day, in the order of recording.
CREATE INDEX deduction_settled ON deduction (id) WHERE state IN ('paid', 'void');
-- What a callback may be about that names nothing but the code; pending rows are found otherwise, so that a scan does not pay for it.
CREATE INDEX deduction_code ON deduction (code_digest) WHERE state IN ('accepted', 'paid', 'unpaid', 'parked', 'void');
CREATE INDEX deduction_awaits ON deduction (id) WHERE awaits > 0;
CREATE INDEX deduction_journey ON deduction (journey) WHERE journey IS NOT NULL;

-- The story of a deduction after its recording.
CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    deduction INTEGER NOT NULL REFERENCES deduction (id),
    at_utc_ms INTEGER NOT NULL,
    event TEXT NOT NULL,
    detail TEXT
) STRICT;
CREATE INDEX event_deduction ON event (deduction, id);

-- What is left of settled deductions that were removed: sums by the Beijing day of their recording.
CREATE TABLE daily (
    day TEXT NOT NULL,
    state TEXT NOT NULL,
    line TEXT NOT NULL,
    deductions INTEGER NOT NULL,
    original_fen INTEGER NOT NULL,
    total_fen INTEGER NOT NULL,
    paid_fen INTEGER NOT NULL,
    PRIMARY KEY (day, state, line)
) STRICT, WITHOUT ROWID;

CREATE TABLE denied (
    id INTEGER PRIMARY KEY,
    at_utc_ms INTEGER NOT NULL,
    boot INTEGER NOT NULL REFERENCES boot (id),
    at_boottime_ms INTEGER NOT NULL,
    clock_synchronized INTEGER NOT NULL,
    lane TEXT NOT NULL,
    reason TEXT NOT NULL,
    code_digest BLOB,
    passenger_tail TEXT,
    -- Denied scans of this lane that were only counted, since the row before.
    uncounted_before INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Callbacks about orders that are not here: evidence, of which the newest are kept. `told`: paid, unpaid, repaid.
CREATE TABLE unknown_callback (
    id INTEGER PRIMARY KEY,
    -- The same for every repeat of one callback.
    fingerprint BLOB NOT NULL UNIQUE,
    first_utc_ms INTEGER NOT NULL,
    last_utc_ms INTEGER NOT NULL,
    times INTEGER NOT NULL DEFAULT 1,
    told TEXT NOT NULL,
    attach TEXT,
    out_trade_no TEXT,
    order_no TEXT,
    code_digest BLOB,
    -- Of the whole payment, which may have been for several orders.
    fen INTEGER NOT NULL,
    transaction_id TEXT,
    repay_no TEXT,
    time_end TEXT
) STRICT;

-- Payments that do not fit what was recorded; the newest. `cause`: amount, paid-after-void, paid-again.
CREATE TABLE settlement_alarm (
    id INTEGER PRIMARY KEY,
    at_utc_ms INTEGER NOT NULL,
    cause TEXT NOT NULL,
    order_number TEXT NOT NULL
) STRICT;

-- One row. `sent` reaches the file when an attempt has ended, so a run that ends without a clean close may have sent what the file
-- calls unsent: `is_delivering` is set, durably, before the first row of a run is handed out and cleared at a clean close, which
-- marks what is still handed out; a start that finds it set holds every row up to the last of that time for one that may have been
-- sent, for ever.
CREATE TABLE delivery (
    is_delivering INTEGER NOT NULL,
    doubtful_up_to INTEGER NOT NULL
) STRICT;
INSERT INTO delivery (is_delivering, doubtful_up_to) VALUES (0, 0);

-- What happened at a lane and concerns no record: the exit button, a passage without an opening, a fire alarm.
CREATE TABLE gate_event (
    id INTEGER PRIMARY KEY,
    at_utc_ms INTEGER NOT NULL,
    boot INTEGER NOT NULL REFERENCES boot (id),
    at_boottime_ms INTEGER NOT NULL,
    clock_synchronized INTEGER NOT NULL,
    lane TEXT NOT NULL,
    event TEXT NOT NULL,
    -- Events of this lane that were only counted, since the row before.
    uncounted_before INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What happened to the ledger itself; the newest rows.
CREATE TABLE incident (
    id INTEGER PRIMARY KEY,
    at_utc_ms INTEGER NOT NULL,
    detail TEXT NOT NULL
) STRICT;

-- Always empty. Filled and emptied once after a start, when the gate is quiet, so that the write-ahead log has its length before
-- it is needed: a commit that makes a file longer costs the file system a second write.
CREATE TABLE growth (
    filler BLOB NOT NULL
) STRICT;

-- Rows and fen by state, kept in step by triggers: a status costs the same with ten rows and with ten million.
CREATE TABLE tally (
    state TEXT PRIMARY KEY,
    deductions INTEGER NOT NULL DEFAULT 0,
    fen INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
INSERT INTO tally (state) VALUES ('held'), ('pending'), ('accepted'), ('paid'), ('unpaid'), ('parked'), ('void');

CREATE TRIGGER deduction_inserted AFTER INSERT ON deduction BEGIN
    UPDATE tally SET deductions = deductions + 1, fen = fen + NEW.total_fen WHERE state = NEW.state;
END;
CREATE TRIGGER deduction_moved AFTER UPDATE OF state ON deduction WHEN OLD.state <> NEW.state BEGIN
    UPDATE tally SET deductions = deductions - 1, fen = fen - OLD.total_fen WHERE state = OLD.state;
    UPDATE tally SET deductions = deductions + 1, fen = fen + NEW.total_fen WHERE state = NEW.state;
END;
CREATE TRIGGER deduction_deleted AFTER DELETE ON deduction BEGIN
    UPDATE tally SET deductions = deductions - 1, fen = fen - OLD.total_fen WHERE state = OLD.state;
END;

CREATE TRIGGER deduction_kept BEFORE DELETE ON deduction WHEN OLD.state NOT IN ('paid', 'void') BEGIN
    SELECT RAISE(ABORT, 'an unsettled deduction is never removed');
END;
CREATE TRIGGER journey_charged_once BEFORE INSERT ON deduction
WHEN NEW.state <> 'void' AND NEW.journey IS NOT NULL
 AND EXISTS (SELECT 1 FROM deduction WHERE journey = NEW.journey AND state <> 'void') BEGIN
    SELECT RAISE(ABORT, 'a journey has at most one deduction that is not void');
END;
CREATE TRIGGER order_number_fixed BEFORE UPDATE OF order_number ON deduction WHEN NEW.order_number <> OLD.order_number BEGIN
    SELECT RAISE(ABORT, 'an order number never changes');
END;
CREATE TRIGGER body_fixed BEFORE UPDATE OF body ON deduction WHEN OLD.body IS NOT NULL AND NEW.body IS NOT OLD.body BEGIN
    SELECT RAISE(ABORT, 'the bytes of a request never change');
END;
CREATE TRIGGER amount_fixed BEFORE UPDATE OF original_fen, total_fen ON deduction
WHEN NEW.original_fen <> OLD.original_fen OR NEW.total_fen <> OLD.total_fen BEGIN
    SELECT RAISE(ABORT, 'the amount of a deduction never changes');
END;
CREATE TRIGGER rank_kept BEFORE UPDATE OF state ON deduction
WHEN (OLD.state = 'paid' AND NEW.state <> 'paid')
  OR (OLD.state = 'unpaid' AND NEW.state NOT IN ('unpaid', 'paid'))
  OR (OLD.state = 'accepted' AND NEW.state NOT IN ('accepted', 'unpaid', 'paid'))
  OR (OLD.state = 'void' AND NEW.state NOT IN ('void', 'paid'))
BEGIN
    SELECT RAISE(ABORT, 'the state of a deduction never goes back');
END;

-- The deny-list. Card accounts are packed as a ride code holds them. A list is loaded in small commits under a version of its own
-- beside the one that counts; then `deny_list.version` is set to it, and the rows of the version before go in small commits.
CREATE TABLE deny_card (
    version INTEGER NOT NULL,
    card BLOB NOT NULL CHECK (length(card) = 10),
    PRIMARY KEY (version, card)
) STRICT, WITHOUT ROWID;

-- What people here added: an import leaves it alone.
CREATE TABLE deny_local (
    card BLOB PRIMARY KEY CHECK (length(card) = 10),
    at_utc_ms INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One row: the version that counts and how many cards it has, the newest that was ever handed out, and the digest of the file
-- that the settings name, as it was read last.
CREATE TABLE deny_list (
    version INTEGER NOT NULL,
    cards INTEGER NOT NULL,
    newest_version INTEGER NOT NULL,
    file_digest BLOB
) STRICT;
INSERT INTO deny_list (version, cards, newest_version) VALUES (0, 0, 0);

-- Who changed the deny-list, and why; the newest rows.
CREATE TABLE deny_change (
    id INTEGER PRIMARY KEY,
    at_utc_ms INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    change TEXT NOT NULL CHECK (change IN ('imported', 'added', 'removed')),
    card BLOB,
    version INTEGER,
    detail TEXT NOT NULL
) STRICT;
