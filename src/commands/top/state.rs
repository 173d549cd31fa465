//! What `top` shows, and what keys do to it. Pure: nothing is asked or drawn here.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::widgets::TableState;
use tollgate_actors::holds::Scope;
use tollgate_actors::ids::{Account, Slug};
use tollgate_actors::queue::Letter;
use tollgate_actors::times::Waits;
use tollgate_actors::view::{
    AccountView, AccountsPage, AccountsQuestion, HoldView, Holder, Overview, Sort,
};

/// Accounts that are asked for at once.
const ROWS: usize = 200;
/// Rates that are remembered for the line of them.
pub(super) const RATES: usize = 240;
/// Longest filter.
const FILTER_MAX: usize = 64;

/// In the order in which `s` goes through them.
pub(super) const SORTS: [Sort; 4] = [Sort::Waiting, Sort::InFlight, Sort::Until, Sort::Name];

/// A platform, and an account of it.
type Name = (String, String);

/// What is to be asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Question {
    pub(super) accounts: AccountsQuestion,
    /// An account that is open.
    pub(super) account: Option<Name>,
    /// The dead letters are open.
    pub(super) dead: bool,
    /// What is to be held, or to go on.
    pub(super) hold: Option<Hold>,
}

/// An account is to be held, or its hold to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) platform: String,
    pub(super) account: String,
    /// Else its hold is to end.
    pub(super) begins: bool,
}

impl Hold {
    /// What is held. Never read from a text of both names: an account's name may end as an api is called.
    pub(super) fn scope(&self) -> Result<Scope, String> {
        let (platform, account) = (Slug::new(&self.platform)?, Account::new(&self.account)?);
        Ok(Scope { platform, account: Some(account), api: None })
    }
}

/// What was answered; what is missing could not be told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// To which question about accounts.
    pub(super) of: AccountsQuestion,
    pub(super) overview: Option<Overview>,
    pub(super) page: Option<AccountsPage>,
    /// The account that was asked for, and what is known of it.
    pub(super) account: Option<(Name, Option<Box<AccountView>>)>,
    pub(super) dead: Option<Vec<Letter>>,
    /// What became of a hold.
    pub(super) note: Option<String>,
    pub(super) error: Option<String>,
    /// Nodes that did not answer.
    pub(super) silent: usize,
}

/// What lies over the table, or in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    /// The table.
    Table,
    /// What is looked for is typed.
    Filter(String),
    /// Whether this is to be held, or to go on.
    Confirm(Hold),
    /// One account.
    Account(String, String),
    Dead,
    Help,
}

/// What a key means beyond this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    None,
    Quit,
}

/// All that is shown.
#[derive(Debug)]
pub(super) struct State {
    pub(super) overview: Option<Overview>,
    pub(super) page: AccountsPage,
    pub(super) account: Option<Box<AccountView>>,
    pub(super) dead: Vec<Letter>,
    pub(super) rates: VecDeque<u64>,
    pub(super) mode: Mode,
    pub(super) sort: Sort,
    pub(super) reverse: bool,
    pub(super) held: bool,
    pub(super) search: String,
    pub(super) table: TableState,
    pub(super) note: Option<String>,
    pub(super) error: Option<String>,
    pub(super) silent: usize,
    pub(super) colour: bool,
    /// Where the pages before this one ended.
    pub(super) pages: Vec<String>,
    hold: Option<Hold>,
    curious: bool,
}

impl State {
    pub(super) fn new(colour: bool) -> Self {
        Self {
            overview: None,
            page: AccountsPage::default(),
            account: None,
            dead: Vec::new(),
            rates: VecDeque::new(),
            mode: Mode::Table,
            sort: Sort::Waiting,
            reverse: false,
            held: false,
            search: String::new(),
            table: TableState::default().with_selected(0),
            note: None,
            error: None,
            silent: 0,
            colour,
            pages: Vec::new(),
            hold: None,
            curious: true,
        }
    }

    /// Whether something else is to be asked than what is asked anyway, so at once.
    pub(super) fn is_curious(&self) -> bool {
        self.curious
    }

    /// What is to be asked now.
    pub(super) fn question(&mut self) -> Question {
        self.curious = false;
        let account = match &self.mode {
            Mode::Account(platform, account) => Some((platform.clone(), account.clone())),
            _ => None,
        };
        let accounts = self.accounts();
        let dead = self.mode == Mode::Dead;
        Question { accounts, account, dead, hold: self.hold.take() }
    }

    fn accounts(&self) -> AccountsQuestion {
        AccountsQuestion {
            search: (!self.search.is_empty()).then(|| self.search.clone()),
            sort: self.sort,
            reverse: self.reverse,
            held: self.held,
            after: self.pages.last().cloned(),
            most: Some(ROWS),
            ..AccountsQuestion::default()
        }
    }

    /// Takes in an answer.
    pub(super) fn hear(&mut self, told: Told) {
        if let Some(overview) = told.overview {
            if self.rates.len() >= RATES {
                self.rates.pop_front();
            }
            // In tenths, so that a call every few seconds shows too.
            self.rates.push_back((overview.rates.calls * 10.0).round() as u64);
            self.overview = Some(overview);
        }
        // One to an earlier question says nothing of what is looked at now.
        if let Some(page) = told.page.filter(|_| told.of == self.accounts()) {
            let last = page.accounts.len().saturating_sub(1);
            if self.table.selected().is_none_or(|place| place > last) {
                self.table.select(Some(last));
            }
            self.page = page;
        }
        // Of one that was open before, the numbers are not those of the one that is.
        if let Some((of, view)) = told.account
            && self.mode == Mode::Account(of.0, of.1)
        {
            self.account = view;
        }
        if let Some(dead) = told.dead {
            self.dead = dead;
        }
        if told.note.is_some() {
            self.note = told.note;
        }
        self.error = told.error;
        self.silent = told.silent;
    }

    /// The account that is chosen.
    pub(super) fn chosen(&self) -> Option<(String, String)> {
        if let Mode::Account(platform, account) = &self.mode {
            return Some((platform.clone(), account.clone()));
        }
        let look = self.page.accounts.get(self.table.selected()?)?;
        Some((look.platform.clone(), look.account.clone()))
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) -> Action {
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        if ctrl && matches!(key.code, KeyCode::Char('c')) {
            return Action::Quit;
        }
        self.note = None;
        match self.mode.clone() {
            Mode::Filter(text) => self.type_in(text, key.code),
            Mode::Confirm(hold) => {
                if matches!(key.code, KeyCode::Char('y') | KeyCode::Enter) {
                    self.hold = Some(hold);
                    self.curious = true;
                }
                self.mode = Mode::Table;
            }
            Mode::Help => self.mode = Mode::Table,
            Mode::Account(..) | Mode::Dead => match key.code {
                KeyCode::Char('p') if self.mode != Mode::Dead => self.confirm(),
                KeyCode::Char('q') | KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => {
                    self.mode = Mode::Table;
                    self.account = None;
                }
                KeyCode::Char('?') => self.mode = Mode::Help,
                _ => {}
            },
            Mode::Table => return self.press_in_table(key.code),
        }
        Action::None
    }

    fn press_in_table(&mut self, key: KeyCode) -> Action {
        match key {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter(self.search.clone()),
            KeyCode::Esc if !self.search.is_empty() => {
                self.search.clear();
                self.begin_anew();
            }
            KeyCode::Char('s') | KeyCode::Right => self.sort_by(1),
            KeyCode::Left => self.sort_by(SORTS.len() - 1),
            KeyCode::Char('w') => self.sort_as(Sort::Waiting),
            KeyCode::Char('f') => self.sort_as(Sort::InFlight),
            KeyCode::Char('u') => self.sort_as(Sort::Until),
            KeyCode::Char('n') => self.sort_as(Sort::Name),
            KeyCode::Char('r') => {
                self.reverse = !self.reverse;
                self.begin_anew();
            }
            KeyCode::Char('o') => {
                self.held = !self.held;
                self.begin_anew();
            }
            KeyCode::Char('p') => self.confirm(),
            KeyCode::Char('d') => {
                self.mode = Mode::Dead;
                self.curious = true;
            }
            KeyCode::Enter => {
                if let Some((platform, account)) = self.chosen() {
                    self.account = None;
                    self.mode = Mode::Account(platform, account);
                    self.curious = true;
                }
            }
            KeyCode::Down | KeyCode::Char('j') => self.table.select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.table.select_previous(),
            KeyCode::Home | KeyCode::Char('g') => self.table.select_first(),
            KeyCode::End | KeyCode::Char('G') => {
                self.table.select(Some(self.page.accounts.len().saturating_sub(1)));
            }
            KeyCode::PageDown => {
                if let Some(next) = self.page.next.clone() {
                    self.pages.push(next);
                    self.turn_page();
                }
            }
            KeyCode::PageUp if self.pages.pop().is_some() => self.turn_page(),
            _ => {}
        }
        let last = self.page.accounts.len().saturating_sub(1);
        if self.table.selected().is_none_or(|place| place > last) {
            self.table.select(Some(last));
        }
        Action::None
    }

    fn type_in(&mut self, mut text: String, key: KeyCode) {
        match key {
            KeyCode::Enter => {
                self.search = text;
                self.mode = Mode::Table;
                self.begin_anew();
            }
            KeyCode::Esc => self.mode = Mode::Table,
            KeyCode::Backspace => {
                text.pop();
                self.mode = Mode::Filter(text);
            }
            KeyCode::Char(letter) if text.len() < FILTER_MAX => {
                text.push(letter);
                self.mode = Mode::Filter(text);
            }
            _ => {}
        }
    }

    /// Asks whether the account that is chosen is to be held, or to go on where an operator holds it.
    fn confirm(&mut self) {
        let Some((platform, account)) = self.chosen() else { return };
        let view = self.account.as_ref().filter(|_| matches!(self.mode, Mode::Account(..)));
        let paused = if let Some(view) = view {
            // Of an open account all holds are known, whatever it waits for; one of an api alone leaves the rest to be held.
            let own = format!("{platform}/{account}");
            let is_whole = |hold: &HoldView| hold.of == platform || hold.of == own;
            view.holds.iter().any(|hold| hold.by == Holder::Operator && is_whole(hold))
        } else {
            let mut looks = self.page.accounts.iter();
            let look = looks.find(|look| look.platform == platform && look.account == account);
            look.is_some_and(|look| look.cause == Some(Waits::Paused))
        };
        self.mode = Mode::Confirm(Hold { platform, account, begins: !paused });
    }

    fn sort_by(&mut self, step: usize) {
        let place = SORTS.iter().position(|sort| *sort == self.sort).unwrap_or(0);
        self.sort_as(SORTS[(place + step) % SORTS.len()]);
    }

    fn sort_as(&mut self, sort: Sort) {
        self.sort = sort;
        self.begin_anew();
    }

    fn begin_anew(&mut self) {
        self.pages.clear();
        self.turn_page();
    }

    fn turn_page(&mut self) {
        self.table.select(Some(0));
        self.curious = true;
    }
}

#[cfg(test)]
mod tests;
