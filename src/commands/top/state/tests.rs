//! Keys and answers to states, states to pictures.

use jiff::{SignedDuration, Timestamp};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tollgate_actors::shard::AccountLook;
use tollgate_actors::times::Waits;
use tollgate_actors::view::{
    AccountState, AccountView, AccountsPage, AnswerView, CallView, CounterView, Eta, HoldView,
    Holder, LaneView, LimitKind, LimitView, NextCall, NodeView, Overview, PlatformView, Rates,
    Sort,
};

use super::super::screen;
use super::*;

fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn after(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

fn eta(seconds: i64, about: bool, by: &str) -> Eta {
    Eta { at: after(seconds), about, by: Some(by.to_owned()) }
}

fn look(
    account: &str,
    waiting: u64,
    because: &str,
    cause: Waits,
    until: Option<i64>,
) -> AccountLook {
    AccountLook {
        platform: "meta".into(),
        account: account.into(),
        waiting,
        in_flight: u32::from(cause == Waits::Collector),
        because: Some(because.into()),
        cause: Some(cause),
        until: until.map(after),
        eta: Some(eta(60 * i64::try_from(waiting).unwrap(), waiting > 100, "hourly")),
    }
}

fn overview() -> Overview {
    let rates = Rates { calls: 41.5, done: 40.0, throttled: 1.5, ..Rates::default() };
    let node = |name: &str, away| NodeView {
        node: name.into(),
        slots: 1024,
        slots_open: 1000,
        store_away: away,
        ..NodeView::default()
    };
    Overview {
        running: true,
        waiting: 12_345,
        in_flight: 24,
        postponed: Some(3),
        dead: Some(2),
        rates,
        rates_minute: Rates { calls: 39.0, ..Rates::default() },
        allowed: Some(50.0),
        eta: Some(eta(7_260, true, "hourly")),
        platforms: vec![PlatformView::default()],
        nodes: vec![node("node-a", false), node("node-b", true)],
        ..Overview::empty(now())
    }
}

fn told(state: &State) -> Told {
    let accounts = vec![
        look("act_1", 180, "hourly", Waits::Limit, Some(1_870)),
        look("com.Shop.app", 60, "an operator's hold: tests", Waits::Paused, None),
        look("act_3\u{1b}[2J", 4, "a free collector", Waits::Collector, None),
    ];
    let page = AccountsPage {
        matching: 250,
        accounts,
        next: Some("-4/meta/x".into()),
        ..AccountsPage::default()
    };
    Told { of: state.accounts(), overview: Some(overview()), page: Some(page), ..Told::default() }
}

fn state() -> State {
    let mut state = State::new(false);
    for calls in [0_u32, 10, 20, 40, 41] {
        let mut told = told(&state);
        told.overview.as_mut().unwrap().rates.calls = f64::from(calls);
        state.hear(told);
    }
    let told = told(&state);
    state.hear(told);
    state
}

fn press(state: &mut State, keys: &[KeyCode]) -> Action {
    keys.iter().map(|key| state.press(KeyEvent::new(*key, KeyModifiers::NONE))).last().unwrap()
}

fn typed(state: &mut State, text: &str) {
    for letter in text.chars() {
        press(state, &[KeyCode::Char(letter)]);
    }
}

fn hold(account: &str, begins: bool) -> Hold {
    Hold { platform: "meta".into(), account: account.into(), begins }
}

fn picture(state: &mut State, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen::draw(frame, state, now())).unwrap();
    terminal.backend().to_string()
}

fn view() -> AccountView {
    let counter = |used, reserved, frees| CounterView {
        api: None,
        used,
        reserved,
        since: Some(after(-1_000)),
        frees: Some(after(frees)),
        clears: Some(after(frees)),
        calls: vec![CallView { at: after(-500), units: 1 }],
        calls_left_out: 0,
    };
    let limit = |name: &str, kind, max, counters| LimitView {
        name: name.into(),
        kind,
        per: vec!["account".into()],
        api: None,
        max,
        window_ms: Some(3_600_000),
        guard_ms: Some(250),
        shared: false,
        counters,
    };
    let app = LimitView {
        per: vec!["platform".into()],
        shared: true,
        ..limit("app", LimitKind::Sliding, 10, vec![])
    };
    AccountView {
        platform: "meta".into(),
        account: "act_1".into(),
        node: Some("node-a".into()),
        state: AccountState::Live,
        now: now(),
        waiting: 180,
        in_flight: 1,
        lanes: vec![LaneView {
            api: "insights".into(),
            priority: tollgate_actors::ids::Priority::Normal,
            waiting: 180,
        }],
        because: Some("hourly".into()),
        cause: Some(Waits::Limit),
        until: Some(after(1_870)),
        limits: vec![
            limit("gap", LimitKind::Every, 1, vec![counter(1, 1, 5)]),
            limit("hourly", LimitKind::Sliding, 60, vec![counter(45, 1, 1_870)]),
            app,
        ],
        holds: vec![HoldView {
            by: Holder::Provider,
            of: "meta/act_1".into(),
            reason: "429".into(),
            since: None,
            until: Some(after(30)),
        }],
        answers: vec![AnswerView {
            at: after(-12),
            api: "insights".into(),
            status: Some(429),
            class: "throttled".into(),
        }],
        next: vec![NextCall { at: after(1_870), api: "insights".into() }],
        eta: Some(eta(7_260, false, "hourly")),
    }
}

fn of_account(state: &State, account: &str, holds: Vec<HoldView>) -> Told {
    let mut view = view();
    view.account = account.into();
    view.holds.extend(holds);
    Told { account: Some((("meta".into(), account.into()), Some(Box::new(view)))), ..told(state) }
}

#[test]
fn the_table_at_three_widths() {
    let mut state = state();
    insta::assert_snapshot!("wide", picture(&mut state, (120, 18)));
    insta::assert_snapshot!("middle", picture(&mut state, (80, 16)));
    insta::assert_snapshot!("narrow", picture(&mut state, (40, 10)));
    // Whatever room there is, it is drawn.
    for size in [(1, 1), (5, 3), (20, 5), (300, 100)] {
        picture(&mut state, size);
    }
}

#[test]
fn an_account_letters_and_keys_lie_over_the_table() {
    let mut state = state();
    press(&mut state, &[KeyCode::Enter]);
    assert_eq!(state.question().account, Some(("meta".into(), "act_1".into())));
    state.hear(of_account(&state, "act_1", vec![]));
    insta::assert_snapshot!("account", picture(&mut state, (100, 24)));
    press(&mut state, &[KeyCode::Char('q'), KeyCode::Char('?')]);
    insta::assert_snapshot!("keys", picture(&mut state, (80, 24)));
    press(&mut state, &[KeyCode::Char('x'), KeyCode::Char('d')]);
    assert!(state.question().dead);
    assert!(picture(&mut state, (80, 24)).contains("none"));
}

#[test]
fn keys_sort_find_and_turn_pages() {
    let mut state = state();
    assert!(state.is_curious(), "nothing was asked so far");
    state.question();
    press(&mut state, &[KeyCode::Char('s')]);
    assert!(state.is_curious());
    assert_eq!(state.question().accounts.sort, Sort::InFlight);
    press(&mut state, &[KeyCode::Char('n'), KeyCode::Char('r')]);
    let asked = state.question().accounts;
    assert_eq!((asked.sort, asked.reverse), (Sort::Name, true));
    press(&mut state, &[KeyCode::Char('/')]);
    typed(&mut state, "shopq");
    assert!(picture(&mut state, (80, 20)).contains("find: shopq_"));
    press(&mut state, &[KeyCode::Backspace, KeyCode::Enter]);
    assert_eq!(state.question().accounts.search.as_deref(), Some("shop"));
    press(&mut state, &[KeyCode::PageDown]);
    assert_eq!(state.question().accounts.after.as_deref(), Some("-4/meta/x"));
    press(&mut state, &[KeyCode::PageUp]);
    assert_eq!(state.question().accounts.after, None);
    press(&mut state, &[KeyCode::Char('o')]);
    assert!(state.question().accounts.held);
    assert_eq!(press(&mut state, &[KeyCode::Char('q')]), Action::Quit);
}

#[test]
fn a_hold_is_asked_for_only_after_a_yes_and_ended_where_there_is_one() {
    let mut state = state();
    press(&mut state, &[KeyCode::Char('p')]);
    assert!(picture(&mut state, (80, 20)).contains("Hold meta/act_1?"));
    press(&mut state, &[KeyCode::Char('n')]);
    assert_eq!(state.question().hold, None);
    press(&mut state, &[KeyCode::Char('p'), KeyCode::Char('y')]);
    assert_eq!(state.question().hold, Some(hold("act_1", true)));
    assert_eq!(state.question().hold, None, "once");
    press(&mut state, &[KeyCode::Down, KeyCode::Char('p'), KeyCode::Char('y')]);
    assert_eq!(state.question().hold, Some(hold("com.Shop.app", false)));
}

#[test]
fn an_account_whose_name_ends_as_an_api_is_called_is_held_itself() {
    let mut state = state();
    let mut told = told(&state);
    told.page.as_mut().unwrap().accounts[0].account = "shop/insights".into();
    state.hear(told);
    press(&mut state, &[KeyCode::Char('p')]);
    assert!(picture(&mut state, (80, 20)).contains("Hold meta/shop/insights?"));
    press(&mut state, &[KeyCode::Char('y')]);
    let scope = state.question().hold.unwrap().scope().unwrap();
    assert_eq!(scope.account.unwrap().as_str(), "shop/insights");
    assert_eq!(scope.api, None);
}

#[test]
fn numbers_of_an_account_are_not_shown_under_the_name_of_another() {
    let mut state = state();
    press(&mut state, &[KeyCode::Enter]);
    let late = of_account(&state, "act_1", vec![]);
    press(&mut state, &[KeyCode::Char('q'), KeyCode::Down, KeyCode::Enter]);
    state.hear(late);
    let shown = picture(&mut state, (100, 24));
    assert!(shown.contains("meta/com.Shop.app") && !shown.contains("last answers:"), "{shown}");
    // Nor those of one that was left by its keys.
    press(&mut state, &[KeyCode::Char('q'), KeyCode::Enter]);
    state.hear(of_account(&state, "com.Shop.app", vec![]));
    assert!(picture(&mut state, (100, 24)).contains("last answers:"));
    press(&mut state, &[KeyCode::Char('?'), KeyCode::Char('x'), KeyCode::Up, KeyCode::Enter]);
    assert!(!picture(&mut state, (100, 24)).contains("last answers:"));
    // What could not be asked leaves what was known.
    state.hear(of_account(&state, "act_1", vec![]));
    state.hear(Told { error: Some("no node answers".into()), ..Told::default() });
    assert!(picture(&mut state, (100, 24)).contains("last answers:"));
}

#[test]
fn an_open_account_says_itself_whether_an_operator_holds_it() {
    let by_operator = |of: &str| HoldView {
        by: Holder::Operator,
        of: of.into(),
        reason: "an operator's hold".into(),
        since: Some(now()),
        until: None,
    };
    let cases = [(vec![], true), (vec!["meta/act_1"], false), (vec!["meta/act_1/insights"], true)];
    for (held, begins) in cases {
        let mut state = state();
        press(&mut state, &[KeyCode::Enter]);
        let holds = held.into_iter().map(by_operator).collect();
        let mut told = of_account(&state, "act_1", holds);
        // It is not on the page of now.
        told.page.as_mut().unwrap().accounts.remove(0);
        state.hear(told);
        press(&mut state, &[KeyCode::Char('p'), KeyCode::Char('y')]);
        assert_eq!(state.question().hold, Some(hold("act_1", begins)));
    }
}

#[test]
fn an_answer_to_another_question_leaves_the_table_as_it_is() {
    let mut state = state();
    let late = told(&state);
    press(&mut state, &[KeyCode::Char('n')]);
    state.page.matching = 7;
    state.hear(late);
    assert_eq!(state.page.matching, 7);
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(state.press(ctrl_c), Action::Quit);
}
