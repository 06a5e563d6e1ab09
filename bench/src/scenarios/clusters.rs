//! `shards` and `nodes`: the same load on one node with more and more shards, and on more and more
//! nodes with one replica of each shard and with three. One repetition goes through all of them.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use super::chains::Load;
use crate::figures::Figures;
use crate::server::{Server, Target};
use crate::work::Work;

#[derive(Args, Clone, Debug)]
pub(crate) struct Shards {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    load: Load,
    /// Numbers of shards
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16", value_name = "N,…")]
    counts: Vec<u32>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Nodes {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    load: Load,
    /// Numbers of nodes
    #[arg(long, value_delimiter = ',', default_value = "1,2,3", value_name = "N,…")]
    counts: Vec<usize>,
    /// Replicas of each shard; more than there are nodes are left out
    #[arg(long, value_delimiter = ',', default_value = "1,3", value_name = "N,…")]
    replicas: Vec<usize>,
}

impl Shards {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        for count in &self.counts {
            let target = Target { shards: Some(*count), ..self.target.clone() };
            figures.series(format!("shards {count}"));
            measure(&target, &self.load, dir, figures).await?;
        }
        Ok(())
    }
}

impl Nodes {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        for nodes in &self.counts {
            for replicas in self.replicas.iter().filter(|replicas| *replicas <= nodes) {
                let target =
                    Target { nodes: *nodes, replication_factor: Some(*replicas), ..self.target.clone() };
                figures.series(format!("nodes {nodes}, RF {replicas}"));
                measure(&target, &self.load, dir, figures).await?;
            }
        }
        Ok(())
    }
}

async fn measure(target: &Target, load: &Load, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
    let server = Server::open(target, dir, &[]).await?;
    load.measure(&server, &Work::Chain10.definition(), figures).await
}
