//! The cluster: its nodes, who holds and leads which shard, and what changes it.

use askama::Template;
use axum::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::act::Field;
use super::contract::{Answer, Problem, Shown, Unreachable};
use super::markup::{Markup, badge, bytes, escaped, number};
use super::page::{Chrome, Confirm, Nav, html, redirect};
use super::visit::{Visit, encoded};

/// How often the page is brought up to date, in seconds.
const EVERY_S: u32 = 2;

/// `GET /v1/cluster`.
#[derive(Deserialize)]
struct Cluster {
    cluster_id: String,
    version: String,
    map_version: u64,
    replication_factor: u32,
    members: Vec<Member>,
    leader: Option<String>,
    shards: Vec<Shard>,
    system_shard: Option<Shard>,
    #[serde(default)]
    recoveries: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    unreachable_shards: Vec<Unreachable>,
}

#[derive(Deserialize)]
struct Member {
    node_id: String,
    addr: String,
    peer_addr: Option<String>,
    state: String,
    alive: bool,
    shards: u64,
}

#[derive(Deserialize)]
struct Shard {
    shard: u32,
    epoch: u64,
    primary: Option<String>,
    replicas: Vec<Replica>,
    placed: Vec<String>,
    #[serde(default)]
    doing: Option<String>,
    workflows: u64,
    bytes: u64,
    #[serde(default)]
    queue_depth: u64,
}

#[derive(Deserialize)]
struct Replica {
    node_id: String,
    role: String,
    in_sync: bool,
    lag_ms: Option<u64>,
    position: u64,
}

#[derive(Template)]
#[template(path = "cluster.html")]
struct Page {
    chrome: Chrome,
    facts: Vec<(&'static str, Markup)>,
    troubles: Vec<String>,
    nodes: Vec<NodeRow>,
    node_ids: Vec<String>,
    shards: Vec<ShardRow>,
}

struct NodeRow {
    id: String,
    alive: Markup,
    state: String,
    addr: String,
    peer_addr: String,
    leads: usize,
    holds: u64,
}

struct ShardRow {
    name: String,
    leader: String,
    term: u64,
    /// What each node has of it.
    cells: Vec<Markup>,
    workflows: String,
    bytes: String,
    queue: u64,
    doing: String,
    can_move: bool,
}

pub(super) async fn show(visit: Visit) -> Shown {
    let cluster: Cluster = visit.get("/v1/cluster").await?;
    let node_ids: Vec<String> = cluster.members.iter().map(|member| member.node_id.clone()).collect();
    let all = || cluster.shards.iter().chain(&cluster.system_shard);
    let nodes = cluster.members.iter().map(|member| NodeRow {
        id: member.node_id.clone(),
        alive: badge(if member.alive { "alive" } else { "gone" }),
        state: if member.state == "active" { String::new() } else { member.state.clone() },
        addr: member.addr.clone(),
        peer_addr: member.peer_addr.clone().unwrap_or_default(),
        leads: all().filter(|shard| shard.primary.as_ref() == Some(&member.node_id)).count(),
        holds: member.shards,
    });
    let rows = cluster.shards.iter().map(|shard| row(shard, shard.shard.to_string(), &node_ids));
    let system = cluster.system_shard.iter().map(|shard| row(shard, "system".to_owned(), &node_ids));
    let text = |text: &str| Markup(escaped(text));
    let facts = vec![
        ("Cluster", Markup(format!("<code>{}</code>", escaped(&cluster.cluster_id)))),
        ("Build", text(&cluster.version)),
        ("Leader", text(cluster.leader.as_deref().unwrap_or("none"))),
        ("Shard map", Markup(cluster.map_version.to_string())),
        ("Replicas wanted", Markup(cluster.replication_factor.to_string())),
    ];
    let page = Page {
        chrome: visit.chrome(Nav::Cluster, "Cluster").every(EVERY_S),
        facts,
        troubles: troubles(&cluster),
        nodes: nodes.collect(),
        shards: rows.chain(system).collect(),
        node_ids,
    };
    Ok(html(StatusCode::OK, &page))
}

/// What somebody should see to.
fn troubles(cluster: &Cluster) -> Vec<String> {
    let mut troubles: Vec<String> = cluster
        .unreachable_shards
        .iter()
        .map(|missing| format!("Shard {} does not answer: {}", missing.shard, missing.detail))
        .collect();
    let leaderless = cluster.shards.iter().filter(|shard| shard.primary.is_none());
    troubles.extend(leaderless.map(|shard| {
        format!(
            "Shard {} has no leader: a majority of {} has to be there",
            shard.shard,
            shard.placed.join(", ")
        )
    }));
    if cluster.leader.is_none() {
        troubles.push(
            "The cluster's own group has no leader: no node joins, leaves or is given a shard".to_owned(),
        );
    }
    if !cluster.recoveries.is_empty() {
        troubles.push(
            "It went on after a majority was lost for ever: what was acknowledged before that may be missing"
                .to_owned(),
        );
    }
    troubles
}

fn row(shard: &Shard, name: String, node_ids: &[String]) -> ShardRow {
    let cell = |node: &String| match shard.replicas.iter().find(|replica| replica.node_id == *node) {
        None => Markup("<span class=\"quiet\">–</span>".to_owned()),
        Some(_) if shard.primary.as_ref() == Some(node) => Markup(
            "<span class=\"badge s-leader\"><span class=\"sign\" aria-hidden=\"true\">★</span>leads</span>"
                .to_owned(),
        ),
        Some(replica) => {
            let lag = match (replica.in_sync, replica.lag_ms) {
                (true, _) => String::new(),
                (false, Some(ms)) => format!(" {} behind", super::markup::span(ms)),
                (false, None) => " not reached".to_owned(),
            };
            let role = if replica.role == "voter" { "in sync" } else { "follows" };
            let state = badge(if replica.in_sync { role } else { "behind" });
            Markup(format!("<span title=\"position {}\">{state}{lag}</span>", replica.position))
        }
    };
    ShardRow {
        can_move: name != "system",
        leader: shard.primary.as_ref().map_or_else(|| "none".to_owned(), |node| format!("node {node}")),
        term: shard.epoch,
        cells: node_ids.iter().map(cell).collect(),
        workflows: number(shard.workflows),
        bytes: bytes(shard.bytes),
        queue: shard.queue_depth,
        doing: shard.doing.clone().unwrap_or_default(),
        name,
    }
}

#[derive(Template)]
#[template(path = "form.html")]
pub(super) struct Form {
    pub(super) chrome: Chrome,
    pub(super) about: Vec<String>,
    pub(super) fields: Vec<Field>,
    pub(super) button: &'static str,
    pub(super) is_dangerous: bool,
    pub(super) back: String,
    pub(super) problem: Option<Problem>,
}

/// Asks.
pub(super) async fn ask(visit: Visit) -> Shown {
    let node = visit.asked("node").unwrap_or_default().to_owned();
    let shard = visit.asked("shard").unwrap_or_default().to_owned();
    let chrome = visit.chrome(Nav::Cluster, "Change the cluster");
    let back = "/console/cluster".to_owned();
    let confirm = |question: String, consequence: &str, hidden, button, is_dangerous| Confirm {
        chrome: chrome.clone(),
        question,
        consequences: vec![consequence.to_owned()],
        hidden,
        button,
        is_dangerous,
        back: back.clone(),
    };
    let page = match visit.segment(3).as_str() {
        "drain" => confirm(
            format!("Drain node {node}?"),
            "It gives its shards to other nodes, each once its copy there is whole, and takes no new ones.",
            vec![("node", node)],
            "Drain it",
            false,
        ),
        "remove" => confirm(
            format!("Remove node {node} from the cluster?"),
            "Its shards get other nodes first. A node that was removed comes back only as a new one, with an empty folder.",
            vec![("node", node)],
            "Remove it",
            true,
        ),
        "rebalance" => confirm(
            "Rebalance the cluster?".to_owned(),
            "Shards move to where the shard map would place them now, one by one.",
            Vec::new(),
            "Rebalance",
            false,
        ),
        "move" => {
            let form = Form {
                chrome: visit.chrome(Nav::Cluster, format!("Move shard {shard}")),
                about: vec!["A replica of the shard moves to another node; the lead goes with it where that should lead.".into()],
                fields: vec![Field::line("shard", "Shard", shard), Field::line("to", "To which node", ""), Field::line("from", "From which node, if it matters", "")],
                button: "Move it",
                is_dangerous: false,
                back,
                problem: None,
            };
            return Ok(html(StatusCode::OK, &form));
        }
        _ => return Err(visit.nothing_here()),
    };
    Ok(html(StatusCode::OK, &page))
}

/// Does it; how far it has come, the page of the cluster shows.
pub(super) async fn apply(visit: Visit) -> Shown {
    let field = |name: &'static str| encoded(visit.field(name).unwrap_or_default());
    let (node, shard) = (format!("/v1/cluster/nodes/{}", field("node")), field("shard"));
    let mut to = json!({});
    for name in ["to", "from"] {
        if let Some(node) = visit.field(name) {
            to[name] = node.parse::<u64>().map_or_else(|_| Value::from(node), Value::from);
        }
    }
    let answer = match visit.segment(3).as_str() {
        "drain" => visit.call(Method::POST, &format!("{node}/drain"), None).await?,
        "remove" => visit.call(Method::DELETE, &node, None).await?,
        "rebalance" => visit.call(Method::POST, "/v1/cluster/rebalance", None).await?,
        "move" => visit.call(Method::POST, &format!("/v1/cluster/shards/{shard}/move"), Some(&to)).await?,
        _ => return Err(visit.nothing_here()),
    };
    match answer {
        Answer::Done(_) => Ok(redirect("/console/cluster?note=cluster")),
        Answer::Refused(problem) => Err(visit.refused(problem)),
    }
}
