//! `fs.*` with real files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn actions() -> (tempfile::TempDir, Arc<Actions>) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    let actions = Actions::new(options(&dir.path().join("root")));
    (dir, actions)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_is_written_is_read() {
    let (dir, actions) = actions();
    let root = dir.path().join("root");
    let written = run(&actions, "fs.write", json!({"path": "a.txt", "content": "héllo"})).await.unwrap();
    assert_eq!(written, json!({"path": "a.txt", "size": 6, "bytes_written": 6}));
    let read = run(&actions, "fs.read", json!({"path": "a.txt"})).await.unwrap();
    assert_eq!(read, json!({"path": "a.txt", "content": "héllo", "encoding": "text", "size": 6}));
    let appended = run(&actions, "fs.append", json!({"path": "a.txt", "content": {"n": 1}})).await.unwrap();
    assert_eq!(appended, json!({"path": "a.txt", "size": 13, "bytes_written": 7}));
    assert_eq!(fs::read_to_string(root.join("a.txt")).unwrap(), "héllo{\"n\":1}");
    run(&actions, "fs.write", json!({"path": "b", "content": "//4=", "encoding": "base64"})).await.unwrap();
    assert_eq!(fs::read(root.join("b")).unwrap(), [0xff, 0xfe]);
    let read = run(&actions, "fs.read", json!({"path": "b"})).await.unwrap();
    assert_eq!((&read["content"], &read["encoding"]), (&json!("//4="), &json!("base64")));
    assert_eq!(code(&actions, "fs.read", json!({"path": "b", "encoding": "text"})).await, Code::NonRetryable);
    assert_eq!(code(&actions, "fs.read", json!({"path": "a.txt", "max_bytes": 5})).await, Code::NonRetryable);
    assert_eq!(names(&root), ["a.txt", "b"]);
}

#[tokio::test]
async fn a_write_is_whole_and_keeps_permissions() {
    let (dir, actions) = actions();
    let root = dir.path().join("root");
    let write = |params: Value| run(&actions, "fs.write", params);
    write(json!({"path": "deep/er/a", "content": "1", "create_dirs": true, "mode": "0600"})).await.unwrap();
    write(json!({"path": "deep/er/a", "content": "2"})).await.unwrap();
    let file = root.join("deep/er/a");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = json!({"path": "deep/er/a", "content": "3", "overwrite": false});
    assert_eq!(code(&actions, "fs.write", again).await, Code::ExecutionError);
    assert_eq!(
        code(&actions, "fs.write", json!({"path": "deep", "content": "3"})).await,
        Code::ExecutionError
    );
    assert_eq!(
        code(&actions, "fs.write", json!({"path": "no/dir", "content": "3"})).await,
        Code::ExecutionError
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "2");
    assert_eq!(names(&root.join("deep/er")), ["a"]);
    assert_eq!(names(&root), ["deep"]);
}

#[tokio::test]
async fn lists_are_sorted_and_filtered() {
    let (dir, actions) = actions();
    let root = dir.path().join("root");
    for path in ["b.txt", "a.txt", "c.md", "d/e.txt", "d/f/g.txt"] {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), "12").unwrap();
    }
    symlink(dir.path(), root.join("z")).unwrap();
    let list = async |params: Value| {
        let output = run(&actions, "fs.list", params).await.unwrap();
        assert_eq!(output["count"], output["entries"].as_array().unwrap().len());
        let paths =
            output["entries"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap().to_owned());
        paths.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list(json!({"path": "."})).await, "./a.txt ./b.txt ./c.md ./d ./z");
    assert_eq!(list(json!({"path": "./", "pattern": "*.txt"})).await, "./a.txt ./b.txt");
    assert_eq!(list(json!({"path": "d", "recursive": true})).await, "d/e.txt d/f d/f/g.txt");
    let all = json!({"path": "d", "recursive": true, "pattern": "?.txt"});
    assert_eq!(list(all).await, "d/e.txt d/f/g.txt");
    let shown = root.to_str().unwrap();
    assert_eq!(
        list(json!({"path": shown, "pattern": "[ab].*"})).await,
        format!("{shown}/a.txt {shown}/b.txt")
    );
    assert_eq!(
        list(json!({"path": ".", "recursive": true, "pattern": "d/**.txt"})).await,
        "./d/e.txt ./d/f/g.txt"
    );
    let output = run(&actions, "fs.list", json!({"path": "d"})).await.unwrap();
    assert_eq!((&output["entries"][0]["is_dir"], &output["entries"][0]["size"]), (&json!(false), &json!(2)));
    assert!(output["entries"][0]["modified_at"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn stat_says_what_is_there() {
    let (dir, actions) = actions();
    fs::write(dir.path().join("root/a"), "123").unwrap();
    let stat = run(&actions, "fs.stat", json!({"path": "a"})).await.unwrap();
    let expected =
        [("size", json!(3)), ("is_dir", json!(false)), ("is_file", json!(true)), ("exists", json!(true))];
    for (field, value) in expected {
        assert_eq!(stat[field], value, "{field}");
    }
    assert_eq!(run(&actions, "fs.stat", json!({"path": "."})).await.unwrap()["is_dir"], true);
    assert_eq!(code(&actions, "fs.stat", json!({"path": "b"})).await, Code::ExecutionError);
}

#[tokio::test]
async fn copies_and_moves() {
    let (dir, actions) = actions();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::write(root.join("d/e/f"), "1234").unwrap();
    symlink("/etc/passwd", root.join("d/link")).unwrap();
    let copied =
        run(&actions, "fs.copy", json!({"src": "d/e/f", "dst": "n/g", "create_dirs": true})).await.unwrap();
    assert_eq!(copied, json!({"src": "d/e/f", "dst": "n/g", "size": 4, "is_dir": false}));
    let tree = run(&actions, "fs.copy", json!({"src": "d", "dst": "d2"})).await.unwrap();
    assert_eq!((&tree["size"], &tree["is_dir"]), (&json!(4), &json!(true)));
    assert_eq!(fs::read_to_string(root.join("d2/e/f")).unwrap(), "1234");
    assert!(!root.join("d2/link").exists());
    run(&actions, "fs.move", json!({"src": "d2", "dst": "d3"})).await.unwrap();
    assert_eq!(names(&root), ["d", "d3", "n"]);
    let kept = json!({"src": "n/g", "dst": "d3/e/f", "overwrite": false});
    assert_eq!(code(&actions, "fs.move", kept.clone()).await, Code::ExecutionError);
    assert_eq!(code(&actions, "fs.copy", kept).await, Code::ExecutionError);
    assert_eq!(code(&actions, "fs.copy", json!({"src": "none", "dst": "x"})).await, Code::ExecutionError);
    // Into itself ends, one level deep.
    run(&actions, "fs.copy", json!({"src": "d", "dst": "d/e/in"})).await.unwrap();
    assert!(root.join("d/e/in/e/f").exists());
}

#[tokio::test]
async fn deleting_twice_is_no_failure_and_links_are_not_followed() {
    let (dir, actions) = actions();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::create_dir_all(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/kept"), "").unwrap();
    symlink(dir.path().join("outside"), root.join("d/link")).unwrap();
    symlink(dir.path().join("secret"), root.join("link")).unwrap();
    assert_eq!(code(&actions, "fs.delete", json!({"path": "d"})).await, Code::ExecutionError);
    for (path, deleted) in [("d", true), ("d", false), ("link", true), ("gone/too", false)] {
        let output = run(&actions, "fs.delete", json!({"path": path, "recursive": true})).await.unwrap();
        assert_eq!(output, json!({"path": path, "deleted": deleted}));
    }
    assert!(dir.path().join("outside/kept").exists() && dir.path().join("secret").exists());
    assert_eq!(code(&actions, "fs.delete", json!({"path": ".", "recursive": true})).await, Code::PathDenied);
    assert!(root.exists());
}

#[tokio::test]
async fn nothing_outside_the_roots_is_touched() {
    let (dir, actions) = actions();
    let root = dir.path().join("root");
    symlink("../secret", root.join("link")).unwrap();
    symlink("..", root.join("up")).unwrap();
    fs::write(root.join("a"), "").unwrap();
    for path in ["../secret", "link", "up/secret", "/etc/passwd", "up/new"] {
        for (action, params) in [
            ("fs.read", json!({"path": path})),
            ("fs.stat", json!({"path": path})),
            ("fs.write", json!({"path": path, "content": "x", "create_dirs": true})),
            ("fs.append", json!({"path": path, "content": "x"})),
            ("fs.copy", json!({"src": path, "dst": "x"})),
            ("fs.copy", json!({"src": "a", "dst": path})),
            ("fs.move", json!({"src": "a", "dst": path})),
        ] {
            assert_eq!(code(&actions, action, params).await, Code::PathDenied, "{action} {path}");
        }
    }
    assert_eq!(code(&actions, "fs.list", json!({"path": "up"})).await, Code::PathDenied);
    assert_eq!(code(&actions, "fs.delete", json!({"path": "up/secret"})).await, Code::PathDenied);
    assert_eq!(fs::read_to_string(dir.path().join("secret")).unwrap(), "secret");
    assert_eq!(names(dir.path()), ["root", "secret"]);
}

#[tokio::test]
async fn pipes_and_devices_do_not_block() {
    let (dir, actions) = actions();
    nix::unistd::mkfifo(&dir.path().join("root/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (action, params) in [
        ("fs.read", json!({"path": "pipe"})),
        ("fs.append", json!({"path": "pipe", "content": "x"})),
        ("fs.copy", json!({"src": "pipe", "dst": "x"})),
    ] {
        assert_eq!(code(&actions, action, params).await, Code::ExecutionError, "{action}");
    }
}

/// A folder that is swapped for a link to the outside, and back, while actions go through it.
#[tokio::test]
async fn a_link_that_comes_and_goes_leads_nowhere() {
    let (dir, actions) = actions();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    for (folder, text) in [(&root.join("real"), "inside"), (&outside, "outside")] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("file"), text).unwrap();
    }
    fs::create_dir(root.join("real/sub")).unwrap();
    fs::create_dir(outside.join("sub")).unwrap();
    symlink(&outside, root.join("link")).unwrap();
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapping = std::thread::spawn({
        let (root, is_over) = (root.clone(), is_over.clone());
        move || {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                for name in ["real", "link"] {
                    fs::rename(root.join(name), root.join("swapped")).unwrap();
                    std::thread::yield_now();
                    fs::rename(root.join("swapped"), root.join(name)).unwrap();
                }
            }
        }
    });
    let (mut inside, mut denied) = (0, 0);
    for n in 0..3_000 {
        match run(&actions, "fs.read", json!({"path": "swapped/file"})).await {
            Ok(read) => {
                assert_eq!(read["content"], "inside", "read {n}");
                inside += 1;
            }
            Err(fault) => denied += u32::from(fault.code == Code::PathDenied),
        }
        // Whatever comes of it: nothing is made, moved or deleted outside.
        let _ = run(&actions, "fs.write", json!({"path": "swapped/new", "content": "x"})).await;
        let _ = run(&actions, "fs.delete", json!({"path": "swapped/sub", "recursive": true})).await;
        let _ = run(&actions, "fs.copy", json!({"src": "real", "dst": "swapped/copy"})).await;
        if inside > 50 && denied > 50 {
            break;
        }
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    swapping.join().unwrap();
    assert_eq!(names(&outside), ["file", "sub"], "something was done outside");
    assert!(inside > 0 && denied > 0, "both were met: {inside} {denied}");
}
