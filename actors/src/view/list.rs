//! The order of accounts, and where a page of them ends. Pure.
//!
//! A page goes on behind the last row of the one before it, by what it was sorted by and by its name, so pages of a
//! million accounts cost no more than the first one, whoever comes or goes meanwhile.

use std::collections::BinaryHeap;

use super::{AccountsPage, AccountsQuestion, PAGE_MAX, Sort};
use crate::shard::AccountLook;
use crate::times::Waits;

/// Rows of a page, unless told otherwise.
const ROWS: usize = 100;

/// A place in the order: a number, then platform and account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) number: i64,
    pub(crate) platform: String,
    pub(crate) account: String,
}

impl Place {
    /// Where a row stands.
    pub(crate) fn of(look: &AccountLook, sort: Sort) -> Self {
        let number = number(
            sort,
            look.waiting,
            look.in_flight,
            look.until.map(jiff::Timestamp::as_microsecond),
        );
        Self { number, platform: look.platform.clone(), account: look.account.clone() }
    }

    fn text(&self) -> String {
        format!("{}/{}/{}", self.number, self.platform, self.account)
    }

    fn read(text: &str) -> Option<Self> {
        let (number, rest) = text.split_once('/')?;
        let (platform, account) = rest.split_once('/')?;
        let (platform, account) = (platform.to_owned(), account.to_owned());
        Some(Self { number: number.parse().ok()?, platform, account })
    }
}

/// By what accounts are sorted; less comes first.
pub(crate) fn number(sort: Sort, waiting: u64, in_flight: u32, until_us: Option<i64>) -> i64 {
    match sort {
        Sort::Waiting => -i64::try_from(waiting).unwrap_or(i64::MAX),
        Sort::InFlight => -i64::from(in_flight),
        // Whoever waits for no time of its own comes last.
        Sort::Until => until_us.unwrap_or(i64::MAX),
        Sort::Name => 0,
    }
}

/// Whether a question is one that can be answered.
///
/// # Errors
/// It is none; the error is a sentence.
pub fn check(question: &AccountsQuestion) -> Result<(), String> {
    Wanted::of(question).map(|_| ())
}

/// A question that can be answered.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) platform: Option<String>,
    /// In lower case.
    search: Option<Box<[u8]>>,
    pub(crate) sort: Sort,
    pub(crate) reverse: bool,
    pub(crate) held: bool,
    after: Option<Place>,
    pub(crate) most: usize,
}

impl Wanted {
    /// What is wanted.
    ///
    /// # Errors
    /// `after` is not where a page ended; the error is a sentence.
    pub(crate) fn of(question: &AccountsQuestion) -> Result<Self, String> {
        let after = match &question.after {
            None => None,
            Some(text) => Some(
                Place::read(text).ok_or_else(|| format!("`{text}` is not where a page ended"))?,
            ),
        };
        let search = question.search.as_deref().filter(|text| !text.is_empty());
        Ok(Self {
            platform: question.platform.clone(),
            search: search.map(|text| text.to_ascii_lowercase().into_bytes().into()),
            sort: question.sort,
            reverse: question.reverse,
            held: question.held,
            after,
            most: question.most.unwrap_or(ROWS).clamp(1, PAGE_MAX),
        })
    }

    /// Whether the name is one that is looked for.
    pub(crate) fn fits(&self, platform: &str, account: &str) -> bool {
        self.platform.as_deref().is_none_or(|only| only == platform)
            && self.search.as_deref().is_none_or(|search| contains(account.as_bytes(), search))
    }

    /// Whether one of that place belongs to a later page than the one before.
    pub(crate) fn is_behind(&self, number: i64, platform: &str, account: &str) -> bool {
        let Some(after) = &self.after else { return true };
        let own = (number, platform, account);
        let last = (after.number, after.platform.as_str(), after.account.as_str());
        if self.reverse { own < last } else { own > last }
    }

    /// Whether a row is one that is asked for, by what holds it.
    pub(crate) fn takes(&self, look: &AccountLook) -> bool {
        !self.held || matches!(look.cause, Some(Waits::Hold | Waits::Paused))
    }

    /// Whether a row belongs to this page or a later one.
    pub(crate) fn is_on_page(&self, look: &AccountLook) -> bool {
        let place = Place::of(look, self.sort);
        self.is_behind(place.number, &place.platform, &place.account)
    }

    /// Leaves as many of these rows as a page can need.
    pub(crate) fn keep_first(&self, rows: &mut Vec<AccountLook>) {
        self.sort(rows);
        rows.truncate(self.most + 1);
    }

    fn sort(&self, rows: &mut [AccountLook]) {
        rows.sort_by_cached_key(|look| Place::of(look, self.sort));
        if self.reverse {
            rows.reverse();
        }
    }

    /// The page of these rows, which are as many as are wanted from each place they came from.
    pub(crate) fn page(&self, matching: u64, mut rows: Vec<AccountLook>) -> AccountsPage {
        self.sort(&mut rows);
        let more = rows.len() > self.most;
        rows.truncate(self.most);
        let next = rows.last().filter(|_| more).map(|look| Place::of(look, self.sort).text());
        AccountsPage { matching, accounts: rows, next, ..AccountsPage::default() }
    }
}

/// The first so many of what is put in, in bounded memory.
#[derive(Debug)]
pub(crate) struct First<T> {
    heap: BinaryHeap<T>,
    most: usize,
}

impl<T: Ord> First<T> {
    pub(crate) fn new(most: usize) -> Self {
        Self { heap: BinaryHeap::new(), most }
    }

    pub(crate) fn put(&mut self, one: T) {
        if self.heap.len() < self.most {
            self.heap.push(one);
        } else if self.heap.peek().is_some_and(|last| one < *last) {
            self.heap.pop();
            self.heap.push(one);
        }
    }

    pub(crate) fn into_vec(self) -> Vec<T> {
        self.heap.into_vec()
    }
}

/// Whether a text has a part, the latter in lower case; of letters only those of ASCII are the same in both cases.
fn contains(text: &[u8], part: &[u8]) -> bool {
    let Some(first) = part.first() else { return true };
    text.windows(part.len()).any(|window| {
        window[0].to_ascii_lowercase() == *first
            && window.iter().zip(part).all(|(own, wanted)| own.to_ascii_lowercase() == *wanted)
    })
}

/// Pages of several nodes as one.
pub fn together(
    question: &AccountsQuestion,
    pages: Vec<(String, AccountsPage)>,
) -> Result<AccountsPage, String> {
    let wanted = Wanted::of(question)?;
    let in_order = |one: &Place, other: &Place| {
        let order = one.cmp(other);
        if wanted.reverse { order.reverse() } else { order }
    };
    let (mut matching, mut rows, mut nodes, mut shards_silent) = (0, Vec::new(), Vec::new(), 0);
    // What a node has left out comes behind the last that it told: of none is told more than that.
    let mut until: Option<Place> = None;
    for (node, page) in pages {
        matching += page.matching;
        shards_silent += page.shards_silent;
        if let Some(end) = page.next.as_deref().and_then(Place::read) {
            until = Some(match until {
                Some(known) if in_order(&known, &end).is_le() => known,
                _ => end,
            });
        }
        rows.extend(page.accounts);
        nodes.push(node);
    }
    let count = rows.len();
    if let Some(until) = &until {
        rows.retain(|look| in_order(&Place::of(look, wanted.sort), until).is_le());
    }
    let cut = rows.len() < count;
    let mut page = wanted.page(matching, rows);
    if page.next.is_none() && (cut || until.is_some()) {
        page.next = page.accounts.last().map(|look| Place::of(look, wanted.sort).text());
    }
    page.nodes = nodes;
    page.shards_silent = shards_silent;
    Ok(page)
}

/// The first half of a page, for a message that has no room for all of it.
pub(crate) fn halve(page: &mut AccountsPage, sort: Sort) {
    let half = page.accounts.len() / 2;
    page.accounts.truncate(half);
    page.next = page.accounts.last().map(|look| Place::of(look, sort).text());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(account: &str, waiting: u64) -> AccountLook {
        AccountLook {
            platform: "p".into(),
            account: account.into(),
            waiting,
            ..AccountLook::default()
        }
    }

    /// All pages of these rows, as places that keep them would be asked.
    fn pages(question: &AccountsQuestion, rows: &[AccountLook]) -> Vec<Vec<String>> {
        let mut question = question.clone();
        let mut all = Vec::new();
        loop {
            let wanted = Wanted::of(&question).unwrap();
            let behind = rows.iter().filter(|look| {
                let place = Place::of(look, wanted.sort);
                wanted.fits(&look.platform, &look.account)
                    && wanted.is_behind(place.number, &place.platform, &place.account)
            });
            let page = wanted.page(rows.len() as u64, behind.cloned().collect());
            all.push(page.accounts.iter().map(|look| look.account.clone()).collect());
            match page.next {
                Some(next) => question.after = Some(next),
                None => return all,
            }
        }
    }

    #[test]
    fn pages_have_each_account_once_and_in_order_also_where_many_are_alike() {
        let rows: Vec<AccountLook> =
            (0..7).map(|i| look(&format!("a/{i}"), if i < 5 { 3 } else { i })).collect();
        let question = AccountsQuestion { most: Some(3), ..AccountsQuestion::default() };
        let told = pages(&question, &rows);
        assert_eq!(told, [vec!["a/6", "a/5", "a/0"], vec!["a/1", "a/2", "a/3"], vec!["a/4"]]);
        let reverse = AccountsQuestion { reverse: true, sort: Sort::Name, ..question };
        let told = pages(&reverse, &rows).concat();
        assert_eq!(told, ["a/6", "a/5", "a/4", "a/3", "a/2", "a/1", "a/0"]);
    }

    #[test]
    fn a_search_finds_parts_of_names_in_either_case() {
        let of = |search: &str| {
            let search = Some(search.to_owned());
            let question = AccountsQuestion { search, ..AccountsQuestion::default() };
            Wanted::of(&question).unwrap()
        };
        assert!(of("SHOP.").fits("p", "com.Shop.app"));
        assert!(!of("shops").fits("p", "com.Shop.app"));
        assert!(of("").fits("p", "x"));
        assert!(!of("longer than it").fits("p", "x"));
        assert!(of("é").fits("p", "café"));
    }

    #[test]
    fn the_first_of_many_are_kept_and_no_more() {
        let mut first = First::new(3);
        for one in [5, 1, 4, 2, 9, 0] {
            first.put(one);
        }
        let mut kept = first.into_vec();
        kept.sort_unstable();
        assert_eq!(kept, [0, 1, 2]);
        let mut none = First::new(0);
        none.put(1);
        assert!(none.into_vec().is_empty());
    }

    #[test]
    fn of_several_nodes_nothing_is_passed_over_where_one_left_rows_out() {
        let question = AccountsQuestion { most: Some(4), ..AccountsQuestion::default() };
        let wanted = Wanted::of(&question).unwrap();
        let mut cut = wanted.page(4, (0..4).map(|i| look(&format!("a{i}"), 10 - i)).collect());
        halve(&mut cut, Sort::Waiting);
        let whole = wanted.page(2, vec![look("b0", 10), look("b1", 1)]);
        let page = together(&question, vec![("a".into(), cut), ("b".into(), whole)]).unwrap();
        let names: Vec<&str> = page.accounts.iter().map(|look| &*look.account).collect();
        assert_eq!(names, ["a0", "b0", "a1"], "b1 comes behind what a left out");
        assert_eq!((page.next.as_deref(), page.matching), (Some("-9/p/a1"), 6));
        assert_eq!(page.nodes, ["a", "b"]);
    }

    #[test]
    fn what_is_no_end_of_a_page_is_refused() {
        let after = |text: &str| {
            let after = Some(text.to_owned());
            Wanted::of(&AccountsQuestion { after, ..AccountsQuestion::default() })
        };
        assert!(after("-3/p/a/b/c").is_ok());
        assert!(after("x/p/a").is_err() && after("3/p").is_err() && after("").is_err());
    }
}
