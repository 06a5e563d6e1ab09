//! What `Definition::parse` accepts and refuses, as tables of text and problems.

use opcode_engine::definition::Definition;

fn examples() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../node/tests/examples");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    let read =
        |path: std::path::PathBuf| (path.display().to_string(), std::fs::read_to_string(path).unwrap());
    files.into_iter().map(read).collect()
}

#[test]
fn every_published_example_validates_unchanged() {
    let examples = examples();
    assert_eq!(examples.len(), 24);
    for (path, text) in examples {
        let definition = Definition::parse(&text).unwrap_or_else(|e| panic!("{path}: {e:#?}"));
        let again = Definition::parse(&definition.source).unwrap();
        assert_eq!(again.hash, definition.hash, "{path}: its canonical text is the same definition");
        assert_eq!(again.steps.len(), definition.steps.len());
    }
}
