//! What the log costs: encoding and decoding a batch, and committing one, alone and with fifteen
//! other groups on the same stream. `OPCODE_BENCH_DIR` picks the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures::future::BoxFuture;
use opcode_engine::event::EventType;
use opcode_engine::ids::{RunNo, Sequence, ShardId, Timestamp};
use opcode_shard::batch::Batch;
use opcode_shard::error::ShardError;
use opcode_shard::log::{Applied, CommittedEntry, Group, GroupOptions, LogOptions, LogStore, Tables, codec};
use opcode_shard::peer::NoPeers;
use opcode_shard::record::{EventRecord, Record};

/// Events of about 120 bytes of 100 interleaved runs.
fn events(count: u64) -> Vec<Record> {
    let data = br#"{"output":{"status":200,"body":"0123456789abcdef0123456789abcdef0123456789"},"ms":12}"#;
    let event = |n: u64| {
        Record::Event(EventRecord {
            no: RunNo(1_000 + n % 100),
            sequence: Sequence(1 + n / 100),
            event_type: EventType::StepCompleted,
            step_id: Some("fetch.page".into()),
            data: data.to_vec(),
            agent_id: None,
            timestamp: Timestamp(1_700_000_000_000),
        })
    };
    (0..count).map(event).collect()
}

/// Tables that take everything and keep nothing.
struct Nothing;

impl Tables for Nothing {
    fn applied(&self) -> Applied {
        Applied::default()
    }
    fn enqueue(&self, _: Vec<CommittedEntry>) {}
    fn backlog(&self) -> usize {
        0
    }
    fn copy(&self, _: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>> {
        Box::pin(std::future::ready(Err(ShardError::Refused("nothing is not copied".into()))))
    }
    fn check(&self, _: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>> {
        Box::pin(std::future::ready(Err(ShardError::Refused("nothing takes no copy".into()))))
    }
    fn install(&self, _: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>> {
        Box::pin(std::future::ready(Err(ShardError::Refused("nothing takes no copy".into()))))
    }
    fn checkpointed(&self) -> Option<Applied> {
        None
    }
}

fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let records = events(1_000);
    let bytes = codec::encode(&records, 1).expect("a batch of events");
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("encode 1000 events", |b| b.iter(|| codec::encode(&records, 1)));
    group.bench_function("decode 1000 events", |b| {
        b.iter_batched(|| &bytes, |bytes| codec::decode(bytes), BatchSize::SmallInput);
    });
    group.finish();
}

fn commits(criterion: &mut Criterion) {
    let dir = match std::env::var_os("OPCODE_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let dir = dir.expect("a folder for the log");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let options = LogOptions { dir: dir.path().to_owned(), segment_bytes: 64 * 1024 * 1024 };
    let store = LogStore::open(options).expect("a log");
    let groups: Vec<Arc<Group>> = (0..16)
        .map(|shard| {
            let options = GroupOptions {
                group: ShardId(shard),
                node_id: 1,
                founds: true,
                copies_dir: dir.path().join("copies"),
                propose_timeout_ms: 60_000,
            };
            let group = Group::start(options, store.clone(), Arc::new(Nothing), Arc::new(NoPeers));
            let group = runtime.block_on(group).expect("a group");
            runtime.block_on(group.leads(Duration::from_secs(10))).expect("it leads");
            group
        })
        .collect();
    let mut bench = criterion.benchmark_group("commit");
    bench.sample_size(20).measurement_time(Duration::from_secs(4));
    for (members, count) in [(1, 100), (1, 1_000), (16, 100), (16, 1_000)] {
        let records = events(count);
        bench.throughput(Throughput::Elements(members as u64 * count));
        bench.bench_function(format!("{members} groups, batches of {count}"), |b| {
            b.iter_batched(
                || vec![records.clone(); members],
                |batches| {
                    let proposals = groups.iter().cloned().zip(batches).map(|(group, records)| {
                        let term = group.leading_term().expect("it leads");
                        runtime.spawn(async move { group.propose(Batch::gathered(records), term).await })
                    });
                    for proposal in proposals.collect::<Vec<_>>() {
                        runtime.block_on(proposal).expect("no panic").expect("a commit");
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
    bench.finish();
    for group in &groups {
        runtime.block_on(group.shutdown());
    }
}

criterion_group!(benches, batches, commits);
criterion_main!(benches);
