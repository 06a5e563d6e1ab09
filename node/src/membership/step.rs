//! The next step that brings a group's members to those the map wants: pure, so that every way
//! there can be told in a test.
//!
//! Nodes come in as followers, one that lives after the other, and vote once they have the log;
//! each takes the place of one that goes, so that the group is never larger nor smaller than it
//! must be. Whatever the step, the group can commit afterwards: voters are changed only when a
//! majority of the new ones live and have the log. Every step is decided from what there is, so a
//! restart in the middle, or another leader, goes on where the last one was.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use opcode_shard::log::Members;
use opcode_shard::peer::NodeId;

/// Entries that a follower may be behind before it is made a voter.
const BEHIND_MAX: u64 = 100;

/// What a group should be, and what is known of the nodes.
pub(crate) struct Wanted<'a> {
    /// The node that leads the group.
    pub(crate) me: NodeId,
    /// Who shall vote.
    pub(crate) voters: &'a BTreeSet<NodeId>,
    /// Who shall follow, and not vote.
    pub(crate) learners: &'a BTreeSet<NodeId>,
    /// Whether a node was heard lately.
    pub(crate) is_alive: &'a dyn Fn(NodeId) -> bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A node is to follow.
    Add(NodeId),
    /// These are to vote; those that voted and are not listed only follow then.
    SetVoters(BTreeSet<NodeId>),
    /// The lead goes to this one: the node that leads is to vote no more.
    HandOver(NodeId),
    /// Followers that are to go.
    Remove(BTreeSet<NodeId>),
    /// Nothing can be done now; why.
    Wait(Waiting),
    /// The members are as they should be.
    Settled,
}

/// Why a step waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Nodes that shall vote were not heard lately.
    Away(BTreeSet<NodeId>),
    /// Nodes that shall vote and do not have the log yet: each has so many entries.
    Behind { entries: BTreeMap<NodeId, u64>, of: u64 },
    /// With the new voters, so few would live.
    NoMajority { live: usize, of: usize, away: BTreeSet<NodeId> },
}

fn list(nodes: impl IntoIterator<Item = NodeId>) -> String {
    nodes.into_iter().map(|node| node.to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(node) => write!(f, "adding {node} (learner)"),
            Self::SetVoters(voters) => write!(f, "changing voters to {}", list(voters.iter().copied())),
            Self::HandOver(to) => write!(f, "handing the lead over to {to}"),
            Self::Remove(nodes) => write!(f, "removing {}", list(nodes.iter().copied())),
            Self::Wait(why) => why.fmt(f),
            Self::Settled => f.write_str("settled"),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(nodes) => write!(f, "waiting for node {}", list(nodes.iter().copied())),
            Self::Behind { entries, of } => {
                let each = entries.iter().map(|(node, at)| format!("{node} (learner, {at} of {of})"));
                write!(f, "adding {}", each.collect::<Vec<_>>().join(", "))
            }
            Self::NoMajority { live, of, away } => write!(
                f,
                "waiting for node {}: only {live} of the {of} voters would be alive",
                list(away.iter().copied())
            ),
        }
    }
}

/// Whether a member has the log, but for what is on its way to it. One that was never reached has
/// nothing, however short the log is.
pub(crate) fn has_log(members: &Members, node: NodeId) -> bool {
    members.matched.get(&node).is_some_and(|at| at.saturating_add(BEHIND_MAX) >= members.last_index)
}

/// Who of `voters` could lead in place of `me`, the one with most of the log first.
pub(crate) fn successors(
    members: &Members,
    voters: &BTreeSet<NodeId>,
    me: NodeId,
    is_alive: &dyn Fn(NodeId) -> bool,
) -> Vec<NodeId> {
    let others = voters.iter().copied().filter(|node| *node != me && is_alive(*node));
    let mut able: Vec<NodeId> = others.filter(|node| has_log(members, *node)).collect();
    able.sort_by_key(|node| (Reverse(members.matched.get(node).copied()), *node));
    able
}

/// The next step of the group that `wanted.me` leads.
pub(crate) fn next(members: &Members, wanted: &Wanted<'_>) -> Step {
    // Whoever began it leads no more, or was too slow: the change is ended before the next.
    if let Some(voters) = &members.changing_to {
        return Step::SetVoters(voters.clone());
    }
    let all: BTreeSet<NodeId> = wanted.voters.union(wanted.learners).copied().collect();
    let known: BTreeSet<NodeId> = members.voters.union(&members.learners).copied().collect();
    let missing: BTreeSet<NodeId> = wanted.voters.difference(&members.voters).copied().collect();
    let (here, away): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
        missing.intersection(&known).copied().partition(|node| (wanted.is_alive)(*node));
    if let Some(ready) = here.iter().copied().find(|node| has_log(members, *node)) {
        return promote(members, wanted, ready);
    }
    // One after the other takes its copy of the tables; those that are away hold nobody up.
    let new = all.difference(&known).copied().find(|node| here.is_empty() || !missing.contains(node));
    if let Some(new) = new {
        return Step::Add(new);
    }
    if !here.is_empty() {
        let at = |node: &NodeId| members.matched.get(node).copied().unwrap_or_default();
        let entries = here.iter().map(|node| (*node, at(node))).collect();
        return Step::Wait(Waiting::Behind { entries, of: members.last_index });
    }
    if !away.is_empty() {
        return Step::Wait(Waiting::Away(away));
    }
    if members.voters != *wanted.voters {
        return retire(members, wanted);
    }
    let gone: BTreeSet<NodeId> = members.learners.difference(&all).copied().collect();
    if gone.is_empty() { Step::Settled } else { Step::Remove(gone) }
}

/// Has `ready` vote, in place of one that shall not: one that is gone rather than one that lives.
/// A leader that is the only one to go lets another lead first, which then replaces it: a hand-over
/// among one more would take longer.
fn promote(members: &Members, wanted: &Wanted<'_>, ready: NodeId) -> Step {
    let leaving = members.voters.difference(wanted.voters).copied().filter(|node| *node != wanted.me);
    let mut voters = members.voters.clone();
    if let Some(leaves) = leaving.min_by_key(|node| ((wanted.is_alive)(*node), *node)) {
        voters.remove(&leaves);
    } else if !wanted.voters.contains(&wanted.me) {
        let staying = members.voters.intersection(wanted.voters).copied().collect();
        if let Some(next) = successors(members, &staying, wanted.me, wanted.is_alive).first() {
            return Step::HandOver(*next);
        }
    }
    voters.insert(ready);
    checked(members, wanted, voters)
}

/// Everybody who shall vote does: those that shall not go, the leader last.
fn retire(members: &Members, wanted: &Wanted<'_>) -> Step {
    let voters: BTreeSet<NodeId> = wanted.voters.iter().copied().chain([wanted.me]).collect();
    if voters != members.voters {
        return checked(members, wanted, voters);
    }
    match successors(members, wanted.voters, wanted.me, wanted.is_alive).first() {
        Some(node) => Step::HandOver(*node),
        None => Step::Wait(Waiting::Away(wanted.voters.clone())),
    }
}

/// The step to `voters`, if a majority of them, but for a leader that is about to go, can commit.
fn checked(members: &Members, wanted: &Wanted<'_>, voters: BTreeSet<NodeId>) -> Step {
    let can_commit =
        |node: &NodeId| *node == wanted.me || ((wanted.is_alive)(*node) && has_log(members, *node));
    let counted: BTreeSet<NodeId> = match wanted.voters.contains(&wanted.me) {
        true => voters.clone(),
        false => voters.iter().copied().filter(|node| *node != wanted.me).collect(),
    };
    let away: BTreeSet<NodeId> = counted.iter().copied().filter(|node| !can_commit(node)).collect();
    let (live, of) = (counted.len() - away.len(), counted.len());
    match live > of / 2 {
        true => Step::SetVoters(voters),
        false => Step::Wait(Waiting::NoMajority { live, of, away }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nodes: &[NodeId]) -> BTreeSet<NodeId> {
        nodes.iter().copied().collect()
    }

    /// A group led by node 1 whose every member has all of 500 entries, but for `behind`.
    fn group(voters: &[NodeId], learners: &[NodeId], behind: &[(NodeId, Option<u64>)]) -> Members {
        let all = voters.iter().chain(learners).map(|node| (*node, Some(500)));
        let matched: BTreeMap<NodeId, Option<u64>> = all.chain(behind.iter().copied()).collect();
        Members {
            voters: set(voters),
            learners: set(learners),
            matched: matched.into_iter().filter_map(|(node, at)| Some((node, at?))).collect(),
            lag_ms: BTreeMap::new(),
            last_index: 500,
            changing_to: None,
        }
    }

    #[track_caller]
    fn check(members: &Members, voters: &[NodeId], alive: &[NodeId], expect: &str) {
        let voters = set(voters);
        let is_alive = |node: NodeId| alive.contains(&node);
        let wanted = Wanted { me: 1, voters: &voters, learners: &set(&[]), is_alive: &is_alive };
        assert_eq!(next(members, &wanted).to_string(), expect);
    }

    #[test]
    fn a_node_is_added_catches_up_and_votes() {
        check(&group(&[1], &[], &[]), &[1, 2], &[2], "adding 2 (learner)");
        check(&group(&[1], &[2], &[(2, None)]), &[1, 2], &[2], "adding 2 (learner, 0 of 500)");
        check(&group(&[1], &[2], &[(2, Some(399))]), &[1, 2], &[2], "adding 2 (learner, 399 of 500)");
        check(&group(&[1], &[2], &[(2, Some(400))]), &[1, 2], &[2], "changing voters to 1, 2");
        check(&group(&[1, 2], &[], &[]), &[1, 2], &[2], "settled");
        // One that was never reached has nothing, however short the log is.
        let short = Members { last_index: 3, ..group(&[1], &[2], &[(2, None)]) };
        check(&short, &[1, 2], &[2], "adding 2 (learner, 0 of 3)");
    }

    #[test]
    fn nodes_come_one_after_the_other() {
        let all = [1, 2, 3];
        check(&group(&[1], &[], &[]), &all, &all, "adding 2 (learner)");
        check(&group(&[1], &[2], &[(2, Some(9))]), &all, &all, "adding 2 (learner, 9 of 500)");
        check(&group(&[1], &[2, 3], &[]), &all, &all, "changing voters to 1, 2");
        check(&group(&[1, 2], &[], &[]), &all, &all, "adding 3 (learner)");
        check(&group(&[1, 2], &[3], &[]), &all, &all, "changing voters to 1, 2, 3");
        // One that is away holds nobody up.
        check(&group(&[1], &[2], &[(2, None)]), &all, &[3], "adding 3 (learner)");
        check(&group(&[1], &[2, 3], &[(2, None)]), &all, &[3], "changing voters to 1, 3");
        check(&group(&[1, 3], &[2], &[(2, None)]), &all, &[3], "waiting for node 2");
    }

    #[test]
    fn a_node_that_is_away_never_comes_to_vote() {
        check(&group(&[1], &[], &[]), &[1, 2], &[], "adding 2 (learner)");
        check(&group(&[1], &[2], &[(2, None)]), &[1, 2], &[], "waiting for node 2");
        check(&group(&[1], &[2], &[]), &[1, 2], &[], "waiting for node 2");
    }

    #[test]
    fn voters_change_only_when_a_majority_of_the_new_ones_live() {
        // Node 2 is drained while node 3 is down.
        let alone = "waiting for node 3: only 1 of the 2 voters would be alive";
        check(&group(&[1, 2, 3], &[], &[]), &[1, 3], &[2], alone);
        check(&group(&[1, 2, 3], &[], &[]), &[1, 3], &[2, 3], "changing voters to 1, 3");
        // So it is when it lives and lacks the log.
        check(&group(&[1, 2, 3], &[], &[(3, Some(7))]), &[1, 3], &[2, 3], alone);
        // With a fourth, one of three may be down.
        check(&group(&[1, 2, 3], &[4], &[]), &[1, 3, 4], &[2, 4], "changing voters to 1, 3, 4");
        check(&group(&[1, 2, 3], &[4], &[]), &[1, 3, 4], &[2, 3], "waiting for node 4");
    }

    #[test]
    fn a_node_that_is_gone_goes_once_another_has_come() {
        check(&group(&[1, 2, 3], &[], &[]), &[1, 2, 4], &[2, 4], "adding 4 (learner)");
        check(&group(&[1, 2, 3], &[4], &[(4, Some(1))]), &[1, 2, 4], &[2, 4], "adding 4 (learner, 1 of 500)");
        check(&group(&[1, 2, 3], &[4], &[]), &[1, 2, 4], &[2, 4], "changing voters to 1, 2, 4");
        check(&group(&[1, 2, 4], &[3], &[(3, None)]), &[1, 2, 4], &[2, 4], "removing 3");
        // Nobody is there to come: it goes.
        check(&group(&[1, 2, 3], &[], &[]), &[1, 2], &[2], "changing voters to 1, 2");
        // The one that is gone makes room before one that lives and shall go too.
        check(&group(&[1, 2, 3], &[4], &[]), &[1, 4, 5], &[2, 4], "changing voters to 1, 2, 4");
    }

    #[test]
    fn the_leader_votes_until_another_leads() {
        let all = [2, 3, 4];
        check(&group(&[1, 2, 3], &[4], &[(2, Some(490))]), &all, &all, "handing the lead over to 3");
        check(&group(&[1], &[2], &[]), &[2], &[2], "changing voters to 1, 2");
        let alone = "waiting for node 2, 3: only 1 of the 3 voters would be alive";
        check(&group(&[1, 2, 3], &[4], &[]), &all, &[4], alone);
        check(&group(&[1, 2, 3, 4], &[], &[(2, Some(490))]), &all, &all, "handing the lead over to 3");
        check(&group(&[1, 2], &[], &[]), &[2], &[2], "handing the lead over to 2");
        check(&group(&[1, 2], &[], &[]), &[2], &[], "waiting for node 2");
        let lags = group(&[1, 2, 3], &[], &[(2, Some(0))]);
        check(&lags, &[2, 3], &[2, 3], "handing the lead over to 3");
    }

    #[test]
    fn a_change_that_was_begun_is_ended_first() {
        let changing = Members { changing_to: Some(set(&[1, 2])), ..group(&[1, 2, 3], &[4], &[]) };
        check(&changing, &[1, 2, 4], &[2, 3, 4], "changing voters to 1, 2");
    }
}
