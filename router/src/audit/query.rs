//! Asking for entries: of one node, and of all as one list, newest first.
//!
//! Each node has its entries in the order in which they were answered, under numbers of its own. A
//! list goes back through all nodes at once, by the times of entries, and its cursor says for each
//! node how far it has come: so clocks that differ put entries of two nodes in another order, and
//! never leave any out. One page reads a bounded piece of each node's files; a page with few entries,
//! or none, and a cursor means that there may be more further back.

use std::collections::{BTreeMap, VecDeque};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use opcode_engine::ids::Timestamp;
use opcode_shard::peer::NodeId;
use serde::{Deserialize, Serialize};

use super::{AuditLog, Entry};

/// Entries of one page at most, and one more to see whether there are any.
const LIMIT_MAX: usize = 1_001;
/// Longest cursor that is looked at, in characters, and nodes that it tells of at most.
const CURSOR_CHARS_MAX: usize = 16 * 1024;
const CURSOR_NODES_MAX: usize = 512;
/// What a cursor of this list begins with, so that no other list's passes for one.
const CURSOR: &str = "audit1";

/// Which entries are asked for; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Answered at or after.
    pub since: Option<Timestamp>,
    /// Answered before.
    pub until: Option<Timestamp>,
    /// For this agent.
    pub agent_id: Option<String>,
    /// By the token of this id or name.
    pub token: Option<String>,
    /// Of this method.
    pub method: Option<String>,
    /// With a path that begins so.
    pub path: Option<String>,
    /// Statuses from the one to the other, both included.
    pub status: Option<(u16, u16)>,
}

impl Filter {
    /// Whether an entry is asked for.
    pub fn takes(&self, entry: &Entry) -> bool {
        let is =
            |wanted: &Option<String>, value: Option<&String>| wanted.is_none() || value == wanted.as_ref();
        self.since.is_none_or(|since| since <= entry.at)
            && self.until.is_none_or(|until| entry.at < until)
            && is(&self.agent_id, entry.agent_id.as_ref())
            && (is(&self.token, entry.token_id.as_ref()) || is(&self.token, entry.token_name.as_ref()))
            && is(&self.method, Some(&entry.method))
            && self.path.as_ref().is_none_or(|path| entry.path.starts_with(path))
            && self.status.is_none_or(|(from, to)| entry.status.is_some_and(|is| (from..=to).contains(&is)))
    }

    /// Whether any entry of these times may be asked for, both included.
    pub fn may_take(&self, first: Timestamp, last: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= last) && self.until.is_none_or(|until| first < until)
    }
}

/// What one node is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageQuery {
    /// Which entries.
    pub filter: Filter,
    /// Only those with lower numbers.
    pub before: Option<u64>,
    /// Only those of this time or earlier.
    pub at_most: Option<Timestamp>,
    /// How many at most.
    pub limit: usize,
}

impl PageQuery {
    /// Whether an entry is asked for.
    pub fn takes(&self, entry: &Entry) -> bool {
        self.before.is_none_or(|before| entry.seq < before)
            && self.at_most.is_none_or(|at| entry.at <= at)
            && self.filter.takes(entry)
    }
}

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// The newest first.
    pub entries: Vec<Entry>,
    /// The lowest number that was looked at, when there may be more below it.
    pub more_before: Option<u64>,
}

/// Answers another node, which asks for a page.
///
/// # Errors
/// Says why there is none.
pub async fn answer(log: &dyn AuditLog, body: &[u8]) -> Result<Bytes, String> {
    let mut query: PageQuery =
        serde_json::from_slice(body).map_err(|error| format!("this asks for no audit entries: {error}"))?;
    query.limit = query.limit.min(LIMIT_MAX);
    let page = log.page(query).await?;
    serde_json::to_vec(&page).map(Bytes::from).map_err(|error| error.to_string())
}

/// How far a list has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The time of the last entry that was shown.
    pub at: Option<Timestamp>,
    /// Of nodes that have been read, the number below which to go on; 0 where there is nothing more.
    pub before: BTreeMap<NodeId, u64>,
}

impl Cursor {
    /// As text for callers.
    pub fn encode(&self) -> String {
        let at = self.at.map_or_else(|| "-".to_owned(), |at| at.0.to_string());
        let mut text = format!("{CURSOR} {at}");
        for (node, before) in &self.before {
            text.push_str(&format!(" {node}:{before}"));
        }
        URL_SAFE_NO_PAD.encode(text)
    }

    /// Reads what [`Cursor::encode`] made, and nothing else.
    pub fn decode(text: &str) -> Option<Self> {
        if text.len() > CURSOR_CHARS_MAX {
            return None;
        }
        let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let mut words = plain.split(' ');
        if words.next()? != CURSOR {
            return None;
        }
        let at = match words.next()? {
            "-" => None,
            at => Some(Timestamp(at.parse().ok()?)),
        };
        let mut before = BTreeMap::new();
        for word in words {
            let (node, seq) = word.split_once(':')?;
            before.insert(node.parse().ok()?, seq.parse().ok()?);
        }
        let cursor = Self { at, before };
        (cursor.before.len() <= CURSOR_NODES_MAX && cursor.encode() == text).then_some(cursor)
    }

    /// What to ask a node for.
    pub(crate) fn query(&self, node: NodeId, filter: &Filter, limit: usize) -> PageQuery {
        let before = self.before.get(&node).copied();
        // One that could not be reached before goes on where the list is.
        let at_most = if before.is_none() { self.at } else { None };
        PageQuery { filter: filter.clone(), before, at_most, limit }
    }
}

/// One node's page, as it is used up.
struct Part {
    entries: VecDeque<Entry>,
    more_before: Option<u64>,
}

/// Puts pages of nodes together: at most `limit` entries, and how far that has come, when there may be
/// more.
pub(crate) fn merge(
    pages: Vec<(NodeId, AuditPage)>,
    limit: usize,
    from: &Cursor,
) -> (Vec<Entry>, Option<Cursor>) {
    let part = |page: AuditPage| Part { entries: page.entries.into(), more_before: page.more_before };
    let mut parts: BTreeMap<NodeId, Part> =
        pages.into_iter().map(|(node, page)| (node, part(page))).collect();
    let mut next = from.clone();
    let mut shown = Vec::new();
    while shown.len() < limit {
        // What a node has further back may be newer than what others have here.
        if parts.values().any(|part| part.entries.is_empty() && part.more_before.is_some()) {
            break;
        }
        let newest = parts
            .iter_mut()
            .filter(|(_, part)| !part.entries.is_empty())
            .max_by_key(|(node, part)| (part.entries.front().map(|entry| entry.at), **node));
        let Some((node, entry)) = newest.and_then(|(node, part)| Some((*node, part.entries.pop_front()?)))
        else {
            break;
        };
        next.at = Some(entry.at);
        next.before.insert(node, entry.seq);
        shown.push(entry);
    }
    let mut has_more = false;
    for (node, part) in &parts {
        match (part.entries.is_empty(), part.more_before) {
            (true, Some(before)) => {
                next.before.insert(*node, before);
                has_more = true;
            }
            (true, None) => {
                next.before.insert(*node, 0);
            }
            (false, _) => has_more = true,
        }
    }
    (shown, has_more.then_some(next))
}

#[cfg(test)]
mod tests {
    use super::super::Call;
    use super::*;

    fn entry(node: NodeId, seq: u64, at: i64) -> Entry {
        let call = Call::made(Timestamp(at), "POST", "/v1/workflows").expect("a call");
        call.into_entry(seq, &node.to_string())
    }

    /// What a node with these entries, oldest first, answers that looks at `scan` of them at a time.
    fn page(all: &[Entry], query: &PageQuery, scan: usize) -> AuditPage {
        let before = query.before.unwrap_or(u64::MAX);
        let mut looked = all.iter().rev().filter(|entry| entry.seq < before);
        let mut page = AuditPage::default();
        for entry in looked.by_ref().take(scan) {
            page.more_before = Some(entry.seq);
            page.entries.extend(query.takes(entry).then(|| entry.clone()));
            if page.entries.len() == query.limit {
                break;
            }
        }
        if looked.next().is_none() {
            page.more_before = None;
        }
        page
    }

    #[test]
    fn pages_show_every_entry_once_whatever_clocks_say_and_however_little_is_read() {
        // The second node's clock is ahead, and the first's was set back once.
        let one: Vec<Entry> =
            [10, 20, 30, 5, 6, 40].iter().zip(1..).map(|(at, n)| entry(1, n, *at)).collect();
        let two: Vec<Entry> = [25, 26, 60, 61].iter().zip(1..).map(|(at, n)| entry(2, n, *at)).collect();
        for (limit, scan) in [(1, 1), (2, 1), (2, 3), (3, 2), (50, 50)] {
            let (mut cursor, mut seen) = (Cursor::default(), Vec::new());
            for _ in 0..100 {
                let ask = |node, all: &[Entry]| {
                    let query = cursor.query(node, &Filter::default(), limit + 1);
                    (node, page(all, &query, scan))
                };
                let (shown, next) = merge(vec![ask(1, &one), ask(2, &two)], limit, &cursor);
                assert!(shown.len() <= limit);
                seen.extend(shown.into_iter().map(|entry| (entry.node_id, entry.seq)));
                let Some(next) = next else { break };
                cursor = Cursor::decode(&next.encode()).expect("its own form");
            }
            let of = |node: &str| -> Vec<u64> {
                seen.iter().filter(|(of, _)| of == node).map(|(_, seq)| *seq).collect()
            };
            assert_eq!(of("1"), [6, 5, 4, 3, 2, 1], "limit {limit}, scan {scan}");
            assert_eq!(of("2"), [4, 3, 2, 1], "limit {limit}, scan {scan}");
        }
    }

    #[test]
    fn a_node_that_comes_back_goes_on_where_the_list_is() {
        let one: Vec<Entry> = (1..=4).map(|n| entry(1, n, n as i64 * 10)).collect();
        let two: Vec<Entry> = (1..=4).map(|n| entry(2, n, n as i64 * 10 + 5)).collect();
        let first = Cursor::default();
        let query = first.query(1, &Filter::default(), 3);
        let (shown, next) = merge(vec![(1, page(&one, &query, 50))], 2, &first);
        assert_eq!(shown.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [4, 3]);
        let next = next.expect("there is more");
        let answer = page(&two, &next.query(2, &Filter::default(), 3), 50);
        assert_eq!(answer.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2, 1], "older than 30");
    }

    #[test]
    fn only_its_own_cursors_are_read() {
        let cursor = Cursor { at: Some(Timestamp(-5)), before: BTreeMap::from([(1, 7), (u64::MAX, 0)]) };
        assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        let of_another_list = URL_SAFE_NO_PAD.encode("1 1700000000000 order-1");
        let long = "A".repeat(CURSOR_CHARS_MAX + 1);
        for wrong in ["", "x", &of_another_list, &long] {
            assert_eq!(Cursor::decode(wrong), None);
        }
        for wrong in
            ["audit1", "audit1 5 1", "audit1 5 1:2 1:3", "audit1 5 2:1 1:1", "audit1 05 1:1", "audit1  1:1"]
        {
            assert_eq!(Cursor::decode(&URL_SAFE_NO_PAD.encode(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn filters_take_what_all_of_them_take() {
        let mut one = entry(1, 1, 100);
        (one.status, one.token_name) = (Some(403), Some("ci".into()));
        let takes = |filter: Filter| filter.takes(&one);
        let all = Filter::default;
        assert!(takes(all()));
        assert!(takes(Filter { since: Some(Timestamp(100)), until: Some(Timestamp(101)), ..all() }));
        assert!(!takes(Filter { until: Some(Timestamp(100)), ..all() }));
        assert!(takes(Filter { token: Some("ci".into()), status: Some((400, 499)), ..all() }));
        assert!(!takes(Filter { token: Some("ops".into()), ..all() }));
        assert!(!takes(Filter { agent_id: Some("a".into()), ..all() }));
        assert!(takes(Filter { path: Some("/v1/work".into()), method: Some("POST".into()), ..all() }));
        assert!(!takes(Filter { status: Some((200, 299)), ..all() }));
        one.status = None;
        assert!(!Filter { status: Some((100, 999)), ..all() }.takes(&one));
    }
}
