//! The files as their reader sees them.

use std::os::unix::fs::symlink;
use std::time::Duration;

use calico_datastore::store::Store;

use crate::support::*;

const SHORT: Duration = Duration::from_millis(400);

#[tokio::test]
async fn first_everything_then_what_changed() {
    let place = Place::new();
    place.write("b.yaml", &format!("{}---\n{}", profile("b", "1"), profile("c", "1")));
    place.write(
        "a.json",
        r#"{"apiVersion": "projectcalico.org/v3", "kind": "Profile",
        "metadata": {"name": "a"}, "spec": {"labelsToApply": {"is": "1"}}}"#,
    );
    for ignored in [".hidden.yaml", "b.yaml~", "b.yaml.swp", "notes.txt"] {
        place.write(ignored, "not YAML: [");
    }
    std::fs::create_dir(place.admin().join("deeper.yaml")).unwrap();
    std::fs::write(place.admin().join("deeper.yaml/x.yaml"), profile("x", "1")).unwrap();
    let store = place.store();
    store.put(&profile_key("s"), profile_value("1").as_bytes(), None).await.unwrap();
    let mut reader = place.follow();
    let first = reader.batch().await;
    assert_eq!((reader.profiles().as_str(), first.rejections.len()), ("a=1 b=1 c=1 s=1", 0));

    place.write("b.yaml", &format!("{}---\n{}", profile("b", "1"), profile("d", "2")));
    let second = reader.batch().await;
    assert_eq!(reader.profiles(), "a=1 b=1 d=2 s=1");
    assert_eq!(second.updates.len(), 2, "a change costs what changed: {second:?}");
    assert!(second.revision > first.revision);

    store.put(&profile_key("s"), profile_value("2").as_bytes(), None).await.unwrap();
    assert_eq!(reader.batch().await.updates.len(), 1);
    store.put(&profile_key("deep/er"), b"{}", None).await.unwrap();
    store.delete(&profile_key("s")).await.unwrap();
    std::fs::remove_file(place.admin().join("a.json")).unwrap();
    reader.until("b=1 d=2").await;
    // Touched, and written again as it was.
    let text = std::fs::read_to_string(place.admin().join("b.yaml")).unwrap();
    place.write("b.yaml", &text);
    assert!(reader.is_quiet(SHORT).await, "a batch about nothing");
    reader.close().await;
}

#[tokio::test]
async fn the_ways_to_replace_a_file() {
    let place = Place::new();
    let (file, aside) = (place.admin().join("p.yaml"), place.aside());
    place.write("p.yaml", &profile("a", "1"));
    let mut reader = place.follow();
    reader.until("a=1").await;
    // A rename over it.
    std::fs::write(&aside, profile("a", "2")).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    assert_eq!(reader.batch().await.updates.len(), 1);
    assert_eq!(reader.profiles(), "a=2");
    // An editor: the old one goes aside, the new one is written, and in between there is none.
    std::fs::write(place.admin().join(".p.yaml.swp"), "x").unwrap();
    std::fs::rename(&file, place.admin().join("p.yaml~")).unwrap();
    std::thread::sleep(Duration::from_millis(10));
    place.write("p.yaml", &profile("a", "3"));
    std::fs::remove_file(place.admin().join("p.yaml~")).unwrap();
    assert_eq!(reader.batch().await.updates.len(), 1, "the object was away");
    assert_eq!(reader.profiles(), "a=3");
    // A slow writer: what is half there does not count until it is closed.
    {
        use std::io::Write as _;
        let mut open = std::fs::File::create(&file).unwrap();
        for part in [profile("a", "4"), "---\n".to_owned(), profile("b", "4")] {
            tokio::time::sleep(Duration::from_millis(250)).await;
            open.write_all(part.as_bytes()).unwrap();
        }
        assert_eq!(reader.profiles(), "a=3");
    }
    assert_eq!(reader.batch().await.updates.len(), 2);
    assert_eq!(reader.profiles(), "a=4 b=4");
    // A link, and another target of it.
    std::fs::remove_file(&file).unwrap();
    reader.until("").await;
    std::fs::write(&aside, profile("a", "5")).unwrap();
    symlink(&aside, &file).unwrap();
    reader.until("a=5").await;
    // A burst is few batches.
    for n in 0..50 {
        place.write(&format!("x{n}.yaml"), &profile(&format!("x{n}"), "1"));
    }
    let mut batches = 0;
    while reader.profiles().split(' ').count() < 51 {
        reader.batch().await;
        batches += 1;
    }
    assert!(batches <= 5, "{batches} batches");
    reader.close().await;
}

#[tokio::test]
async fn a_broken_file_keeps_what_it_said_and_is_named() {
    let place = Place::new();
    let path = place.path("p.yaml");
    place.write("p.yaml", &format!("{}---\n{}", profile("a", "1"), profile("b", "1")));
    place.write("q.yaml", &profile("q", "1"));
    let mut reader = place.follow();
    reader.batch().await;

    // No YAML, a document that the layout refuses, an unknown kind: each time all of it stays.
    let half = format!("{}---\n", profile("a", "2"));
    let bad = [
        (format!("{half}kind: ["), "document 2 (line "),
        (
            format!("{half}{}", profile("b", "2").replace("spec:", "spec: [1]\nx:")),
            "document 2 (line 8): spec: is no object",
        ),
        (profile("c", "1").replace("Profile", "Profil"), "document 1 (line 1): kind: \"Profil\""),
    ];
    for (text, expected) in bad {
        place.write("p.yaml", &text);
        let batch = reader.batch().await;
        assert!(batch.updates.is_empty(), "{batch:?}");
        let refused = reader.refused(&path).unwrap();
        assert!(refused.contains(expected), "{refused}");
        assert!(refused.ends_with("what the file said before stays in force"), "{refused}");
        assert_eq!(reader.profiles(), "a=1 b=1 q=1");
    }
    // Other files go on, and so does this one when it is repaired.
    place.write("q.yaml", &profile("q", "2"));
    reader.until("a=1 b=1 q=2").await;
    assert!(reader.refused(&path).is_some());
    place.write("p.yaml", &profile("a", "3"));
    let batch = reader.batch().await;
    assert_eq!((&batch.accepted[..], reader.profiles().as_str()), (&[path.clone()][..], "a=3 q=2"));
    // Deleted while it is broken, it is gone with all that it said.
    place.write("p.yaml", "[");
    reader.batch().await;
    std::fs::remove_file(&path).unwrap();
    let batch = reader.batch().await;
    assert_eq!((&batch.accepted[..], reader.profiles().as_str()), (&[path][..], "q=2"));
    reader.close().await;
}

#[tokio::test]
async fn at_first_a_file_with_a_mistake_stops_everything_and_later_only_itself() {
    let place = Place::new();
    let half = format!("{}---\nkind: Pod\n---\n{}", profile("a", "1"), profile("b", "1"));
    place.write("p.yaml", &half);
    place.write("q.yaml", &profile("q", "1"));
    let mut reader = place.follow();
    let reason = reader.waiting().await;
    let expected = format!("{}: document 2 (line 8): apiVersion: is missing", place.path("p.yaml"));
    assert!(reason.starts_with(&expected), "{reason}");
    assert!(reason.ends_with("nothing of the file is in force"), "{reason}");
    // Neither what happens to others nor another mistake makes a snapshot.
    place.write("q.yaml", &profile("q", "2"));
    assert!(reader.is_quiet(Duration::from_millis(500)).await);
    place.write("p.yaml", "[");
    assert!(reader.waiting().await.contains("not YAML"));
    place.write("p.yaml", &profile("a", "1"));
    let batch = reader.batch().await;
    assert_eq!((reader.profiles().as_str(), batch.rejections.len()), ("a=1 q=2", 0));
    // Now a new file counts whole or not at all, and the others are as they were.
    let path = place.path("r.yaml");
    place.write("r.yaml", &half.replace("name: ", "name: r"));
    reader.batch().await;
    assert_eq!(reader.profiles(), "a=1 q=2");
    let refused = reader.refused(&path).unwrap();
    assert!(refused.ends_with("nothing of the file is in force"), "{refused}");
    place.write("q.yaml", &profile("q", "3"));
    reader.until("a=1 q=3").await;
    place.write("r.yaml", &profile("r", "1"));
    reader.until("a=1 q=3 r=1").await;
    assert_eq!(reader.refused(&path), None);
    reader.close().await;
}

#[tokio::test]
async fn a_file_that_is_emptied_keeps_what_it_said() {
    let place = Place::new();
    let path = place.path("p.yaml");
    place.write("p.yaml", &profile("a", "1"));
    place.write("empty.yaml", "");
    let mut reader = place.follow();
    reader.batch().await;
    for text in ["", "# nothing\n"] {
        place.write("p.yaml", text);
        reader.batch().await;
        assert_eq!(reader.profiles(), "a=1");
        let refused = reader.refused(&path).unwrap();
        assert!(refused.starts_with("it is empty; remove the file to remove"), "{refused}");
        place.write("p.yaml", &profile("a", "1"));
        reader.batch().await;
        assert_eq!(reader.refused(&path), None);
    }
    // Who says that there is nothing means it, and who removes the file does.
    place.write("p.yaml", "kind: List\nitems: []\n");
    reader.until("").await;
    place.write("p.yaml", &profile("a", "2"));
    reader.until("a=2").await;
    place.write("p.yaml", "");
    reader.batch().await;
    std::fs::remove_file(place.admin().join("p.yaml")).unwrap();
    reader.until("").await;
    reader.close().await;
}

#[tokio::test]
async fn a_file_that_is_written_slowly_is_read_when_it_is_whole() {
    use std::io::Write;
    let place = Place::new();
    place.write("p.yaml", &format!("{}---\n{}", profile("a", "1"), profile("b", "1")));
    let mut reader = place.follow();
    reader.until("a=1 b=1").await;
    let mut file = std::fs::File::create(place.admin().join("p.yaml")).unwrap();
    file.write_all(profile("a", "2").as_bytes()).unwrap();
    // Half of it would be a file without a mistake.
    assert!(reader.is_quiet(Duration::from_secs(3)).await);
    file.write_all(format!("---\n{}", profile("b", "2")).as_bytes()).unwrap();
    drop(file);
    reader.batch().await;
    assert_eq!(reader.profiles(), "a=2 b=2");
    // A link says nothing more after it is there.
    std::fs::write(place.admin().join("other.txt"), profile("c", "1")).unwrap();
    symlink("other.txt", place.admin().join("c.yaml")).unwrap();
    let begin = std::time::Instant::now();
    reader.until("a=2 b=2 c=1").await;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    reader.close().await;
}

#[tokio::test]
async fn of_two_files_with_one_object_the_first_has_it() {
    let place = Place::new();
    let store = place.store();
    store.put(&profile_key("a"), profile_value("state").as_bytes(), None).await.unwrap();
    place.write("b.yaml", &profile("a", "b"));
    let mut reader = place.follow();
    reader.batch().await;
    assert_eq!(reader.profiles(), "a=b");
    place.write("c.yaml", &profile("a", "c"));
    reader.batch().await;
    let refused = reader.refused(&place.path("c.yaml")).unwrap().to_owned();
    assert!(refused.contains("profiles/a is in"), "{refused}");
    assert!(refused.contains("b.yaml already"), "{refused}");
    place.write("a.yaml", &profile("a", "a"));
    reader.until("a=a").await;
    assert!(reader.refused(&place.path("b.yaml")).unwrap().contains("a.yaml already"));
    std::fs::remove_file(place.admin().join("a.yaml")).unwrap();
    reader.until("a=b").await;
    assert_eq!(reader.refused(&place.path("b.yaml")), None);
    for (gone, left) in [("b.yaml", "a=c"), ("c.yaml", "a=state")] {
        std::fs::remove_file(place.admin().join(gone)).unwrap();
        reader.until(left).await;
    }
    assert_eq!(reader.refused(&place.path("c.yaml")), None);
    reader.close().await;
}

#[tokio::test]
async fn a_bad_value_in_the_state_directory_is_refused_by_its_key() {
    let place = Place::new();
    let store = place.store();
    store.put(&profile_key("a"), b"{", None).await.unwrap();
    store.put(&profile_key("b"), profile_value("1").as_bytes(), None).await.unwrap();
    let mut reader = place.follow();
    let batch = reader.batch().await;
    assert_eq!(batch.rejections.len(), 1);
    assert!(reader.refused(&profile_key("a")).unwrap().contains("not JSON"));
    store.put(&profile_key("a"), profile_value("1").as_bytes(), None).await.unwrap();
    reader.until("a=1 b=1").await;
    assert_eq!(reader.refused(&profile_key("a")), None);
    reader.close().await;
}

#[tokio::test]
async fn a_file_that_is_away_for_a_moment_is_not_gone() {
    let place = Place::new();
    let path = place.admin().join("p.yaml");
    place.write("p.yaml", &format!("{}---\n{}", profile("a", "1"), profile("b", "1")));
    let mut reader = place.follow();
    reader.until("a=1 b=1").await;
    // As an editor does that keeps the old file, and takes longer than events are gathered.
    std::fs::rename(&path, place.admin().join("p.yaml~")).unwrap();
    assert!(reader.is_quiet(Duration::from_millis(90)).await);
    place.write("p.yaml", &format!("{}---\n{}", profile("a", "2"), profile("b", "1")));
    let batch = reader.batch().await;
    assert_eq!((batch.updates.len(), reader.profiles().as_str()), (1, "a=2 b=1"));
    // What does not come back is gone, and soon.
    std::fs::remove_file(&path).unwrap();
    let begin = std::time::Instant::now();
    reader.batch().await;
    assert_eq!(reader.profiles(), "");
    assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
    reader.close().await;
}
