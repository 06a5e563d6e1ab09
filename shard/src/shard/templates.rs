//! Templates: every version of every one, in the system shard's memory and tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use opcode_engine::definition::Definition;
use opcode_engine::ids::Timestamp;
use opcode_engine::{Code, Rejected};

use crate::record::TemplateRecord;

/// All templates, versions ascending.
#[derive(Default)]
pub(super) struct Templates {
    by_name: BTreeMap<Arc<str>, Vec<TemplateRecord>>,
}

impl Templates {
    pub(super) fn load(records: Vec<TemplateRecord>) -> Self {
        let mut by_name: BTreeMap<Arc<str>, Vec<TemplateRecord>> = BTreeMap::new();
        for record in records {
            by_name.entry(record.name.clone()).or_default().push(record);
        }
        by_name.values_mut().for_each(|versions| versions.sort_by_key(|t| t.version));
        Self { by_name }
    }

    /// The record to write for a definition of `name`, and whether it is a new version: the same
    /// text as the newest version is that version.
    pub(super) fn define(
        &mut self,
        name: Arc<str>,
        source: Arc<str>,
        definition: &Definition,
        now: Timestamp,
    ) -> (TemplateRecord, bool) {
        let versions = self.by_name.entry(name.clone()).or_default();
        if let Some(newest) = versions.last()
            && newest.definition == definition.hash
            && newest.source == source
        {
            return (newest.clone(), false);
        }
        let version = versions.last().map_or(1, |newest| newest.version + 1);
        let record = TemplateRecord { name, version, definition: definition.hash, source, created_at: now };
        versions.push(record.clone());
        (record, true)
    }

    /// Takes in a version that comes from elsewhere, under its own number; whether it is new. Refused
    /// when the number has another, or is not the next.
    pub(super) fn import(&mut self, record: TemplateRecord) -> Result<bool, Rejected> {
        let (name, version) = (record.name.clone(), record.version);
        let versions = self.by_name.get(&name).map_or(&[][..], Vec::as_slice);
        if let Some(known) = versions.iter().find(|known| known.version == version) {
            return match known.definition == record.definition && known.source == record.source {
                true => Ok(false),
                false => {
                    let message = format!("the version v{version} of the template `{name}` is another here");
                    Err(Rejected::new(Code::Conflict, message))
                }
            };
        }
        let newest = versions.last().map_or(0, |newest| newest.version);
        if version != newest + 1 {
            let message = format!(
                "v{version} cannot follow v{newest} of the template `{name}`: its versions come in order"
            );
            return Err(Rejected::new(Code::Conflict, message));
        }
        self.by_name.entry(name).or_default().push(record);
        Ok(true)
    }

    pub(super) fn get(&self, name: &str, version: Option<u32>) -> Option<TemplateRecord> {
        let versions = self.by_name.get(name)?;
        match version {
            None => versions.last().cloned(),
            Some(wanted) => versions.iter().find(|t| t.version == wanted).cloned(),
        }
    }

    pub(super) fn newest(&self) -> Vec<TemplateRecord> {
        self.by_name.values().filter_map(|versions| versions.last().cloned()).collect()
    }
}
