//! Backups to where none may be, and of what there is not.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Attack, Body};

/// The folder for backups, and a way out of it.
pub(super) fn folder(home: &Path) -> PathBuf {
    let (folder, outside) = (home.join("backups"), home.join("outside"));
    for path in [&folder, &outside] {
        std::fs::create_dir_all(path).expect("a folder can be made");
    }
    std::os::unix::fs::symlink(outside, folder.join("out")).expect("a link can be made");
    folder
}

/// Nothing is in the folder but the way out, and nothing behind that.
pub(super) fn nothing_was_written(folder: &Path) {
    let names = |path: &Path| {
        let entries = std::fs::read_dir(path).expect("a folder can be listed");
        entries.map(|entry| entry.expect("an entry").file_name()).collect::<Vec<_>>()
    };
    assert_eq!(names(folder), ["out"], "a backup was written");
    assert!(names(&folder.join("out")).is_empty(), "a backup was written outside");
}

fn write(name: &'static str, body: Value) -> Attack {
    Attack::new(name, "POST", "/v1/backup", Body::Json(body))
}

fn to(name: &'static str, path: &str) -> Attack {
    write(name, json!({"path": path})).gives(403, "PATH_DENIED")
}

pub(super) fn backups() -> Vec<Attack> {
    vec![
        to("a backup above its folder", ".."),
        to("a backup beside its folder", "a/../../b"),
        to("a backup to another place", "/tmp/opcode-hostile-backup"),
        to("a backup through a symlink", "out"),
        to("a backup beyond a symlink", "out/a/b"),
        to("a backup to no name", ""),
        to("a backup to a name with a NUL", "a\0b"),
        to("a backup to a path without end", &"a/".repeat(2_000)),
        write("a backup to a number", json!({"path": 7})).gives(422, "/path"),
        write("a backup with a field that is none", json!({"pth": "a"})).gives(422, "/pth"),
        write("an addition to no backup", json!({"extend": true})).gives(422, "/path"),
        write("an addition to what is not there", json!({"path": "none", "extend": true}))
            .gives(409, "manifest"),
        write("an addition outside", json!({"path": "../outside", "extend": true})).gives(403, "PATH_DENIED"),
        Attack::get("a copy of no shard", "/v1/backup/shards/4711").gives(404, "NOT_FOUND"),
        Attack::get("a copy of a path", "/v1/backup/shards/..%2F0").gives(404, "NOT_FOUND"),
        Attack::get("a copy of the membership", "/v1/backup/shards/4294967294").gives(404, "NOT_FOUND"),
        Attack::get("a copy by a name that is almost one", "/v1/backup/shards/00").gives(404, "NOT_FOUND"),
        Attack::get("a log from nowhere", "/v1/backup/shards/0/log").gives(400, "/after"),
        Attack::get("a log from no entry", "/v1/backup/shards/0/log?after=1").gives(400, "/after"),
        Attack::get("a log from far ahead", "/v1/backup/shards/0/log?after=1:18446744073709551615")
            .gives(410, "NOT_FOUND"),
        Attack::get("a log of another history", "/v1/backup/shards/0/log?after=99:1").gives(410, "NOT_FOUND"),
        Attack::new("a copy that is posted", "POST", "/v1/backup/shards/0", Body::None)
            .gives(405, "VALIDATION_ERROR"),
    ]
}
