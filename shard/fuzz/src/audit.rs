//! The audit log: bytes are lines of entries or are passed over, and an entry is one line that reads
//! as itself; a cursor is taken in one spelling alone; and no path, however it is spelled, makes
//! more than one short line, nor takes a token's secret into it.

use opcode_engine::ids::Timestamp;
use opcode_router::audit::query::Cursor;
use opcode_router::audit::{Call, Entry};

/// Longest path of an entry, and the mark that it was cut.
const PATH_BYTES_MAX: usize = 512 + '…'.len_utf8();

/// Runs one input as lines, as a cursor, and as a path.
pub fn audit(data: &[u8]) {
    data.split(|byte| *byte == b'\n').filter_map(Entry::read_line).for_each(|entry| is_one_line(&entry));
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(cursor) = Cursor::decode(text) {
        assert_eq!(cursor.encode(), text, "a second spelling");
    }
    for path in [text.to_owned(), format!("/v1/tokens/opc_0123456789abcdef_SECRET/{text}")] {
        let Some(call) = Call::made(Timestamp(0), "POST", &path) else { continue };
        let entry = call.into_entry(1, "1");
        assert!(entry.path.len() <= PATH_BYTES_MAX, "{} bytes of path", entry.path.len());
        assert!(!entry.path.starts_with("/v1/tokens/opc_0123456789abcdef_S"), "{}", entry.path);
        is_one_line(&entry);
    }
}

fn is_one_line(entry: &Entry) {
    let mut line = Vec::new();
    entry.write_line(&mut line);
    assert_eq!(line.pop(), Some(b'\n'));
    assert!(!line.contains(&b'\n'), "more than one line of {entry:?}");
    assert_eq!(Entry::read_line(&line).as_ref(), Some(entry));
}
