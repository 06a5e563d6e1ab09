//! openraft's own suite for stores, over real files. Its test of a snapshot sent to another node
//! is left out: a snapshot is a mark here, and sending copies comes with further members.

use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::state_machine::StateMachine;
use super::super::storage::GroupLog;
use super::super::type_config::TypeConfig;
use super::*;
use crate::batch::Position;

struct Files;

/// Tables that checkpoint as they apply, as the suite wants a snapshot of all that is applied.
struct Eager(Remembering);

impl Tables for Eager {
    fn copy(
        &self,
        _: std::path::PathBuf,
    ) -> futures::future::BoxFuture<'static, Result<Applied, ShardError>> {
        Box::pin(std::future::ready(Err(ShardError::Refused("these tables are not copied".into()))))
    }
    fn check(
        &self,
        _: std::path::PathBuf,
    ) -> futures::future::BoxFuture<'static, Result<Applied, ShardError>> {
        Box::pin(std::future::ready(Err(ShardError::Refused("these tables take no copy".into()))))
    }
    fn install(
        &self,
        _: std::path::PathBuf,
    ) -> futures::future::BoxFuture<'static, Result<Applied, ShardError>> {
        Box::pin(std::future::ready(Err(ShardError::Refused("these tables take no copy".into()))))
    }
    fn applied(&self) -> Applied {
        self.0.applied()
    }
    fn enqueue(&self, entries: Vec<CommittedEntry>) {
        self.0.enqueue(entries);
        self.0.checkpoint();
    }
    fn backlog(&self) -> usize {
        0
    }
    fn checkpointed(&self) -> Option<Applied> {
        self.0.checkpointed()
    }
}

impl StoreBuilder<TypeConfig, GroupLog, StateMachine, TempDir> for Files {
    async fn build(&self) -> Result<(TempDir, GroupLog, StateMachine), StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        let store = LogStore::open(log_options(dir.path())).unwrap();
        // The suite purges what it never gave to the state machine.
        let (_, all) = watch::channel(Position { term: u64::MAX, index: u64::MAX });
        let log = GroupLog::open(store, 3, all).unwrap();
        let (handed_over, _) = watch::channel(Position::default());
        let machine = StateMachine::new(Arc::new(Eager(Remembering::default())), handed_over).unwrap();
        Ok((dir, log, machine))
    }
}

macro_rules! suite {
    ($($name:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let (_dir, log, machine) = Files.build().await.unwrap();
            Suite::<TypeConfig, GroupLog, StateMachine, Files, TempDir>::$name(log, machine).await.unwrap();
        }
    )*};
}

suite! {
    last_membership_in_log_initial
    last_membership_in_log
    last_membership_in_log_multi_step
    get_membership_initial
    get_membership_from_log_and_empty_sm
    get_membership_from_empty_log_and_sm
    get_membership_from_log_le_sm_last_applied
    get_membership_from_log_gt_sm_last_applied_1
    get_membership_from_log_gt_sm_last_applied_2
    get_initial_state_without_init
    get_initial_state_membership_from_log_and_sm
    get_initial_state_with_state
    get_initial_state_last_log_gt_sm
    get_initial_state_last_log_lt_sm
    get_initial_state_log_ids
    get_initial_state_re_apply_committed
    save_vote
    get_log_entries
    limited_get_log_entries
    try_get_log_entry
    initial_logs
    get_log_state
    get_log_id
    last_id_in_log
    last_applied_state
    purge_logs_upto_0
    purge_logs_upto_5
    purge_logs_upto_20
    delete_logs_since_11
    delete_logs_since_0
    append_to_log
    snapshot_meta
    apply_single
    apply_multiple
}
