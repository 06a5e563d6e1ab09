//! Names in namespaces: what two namespaces keep is never kept under one name, whatever it is called, and
//! what is kept is called what it was called.

use opcode_engine::ids::WorkflowId;
use opcode_engine::namespace::{Namespace, local};

/// Runs one input: a line with a namespace, one with another, and a name.
pub fn namespace(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let [first, second, name] = [(); 3].map(|()| lines.next().unwrap_or_default());
    if let Ok(kept) = WorkflowId::parse_kept(text) {
        assert_eq!(kept.as_str(), text, "an id is kept as it is written");
        let again = WorkflowId::parse(kept.local()).map(|id| id.in_namespace(&kept.namespace()));
        assert_eq!(again, Ok(kept), "{text:?}");
    }
    let parsed = [first, second].map(Namespace::parse);
    for (namespace, text) in parsed.iter().zip([first, second]) {
        let Ok(namespace) = namespace else { continue };
        assert_eq!(namespace.as_str(), text);
        keep(namespace, name);
    }
    if let [Ok(first), Ok(second)] = &parsed
        && let (Some(one), Some(other)) = (first.qualify(name), second.qualify(name))
    {
        assert_eq!(one == other, first == second, "{name:?} of {first} and of {second}");
        assert_eq!(first.owns(&other), first == second);
    }
}

fn keep(namespace: &Namespace, name: &str) {
    let Some(kept) = namespace.qualify(name) else {
        assert!(name.contains('/') && WorkflowId::parse(name).is_err(), "{name:?} is no id");
        return;
    };
    assert_eq!((&Namespace::of(&kept), local(&kept)), (namespace, name));
    assert!(namespace.owns(&kept));
    let is_in = |(from, to): (String, String)| *from <= *kept && *kept < *to;
    assert!(namespace.range().is_none_or(is_in), "{kept:?} is in its range");
    if let Ok(id) = WorkflowId::parse(name) {
        let id = id.in_namespace(namespace);
        assert_eq!((id.as_str(), id.local(), &id.namespace()), (&*kept, name, namespace));
        assert_eq!(WorkflowId::parse_kept(&kept), Ok(id));
    }
}
