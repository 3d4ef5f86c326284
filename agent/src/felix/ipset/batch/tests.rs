use std::collections::{BTreeMap, BTreeSet};

use calico_datastore::model::Family;
use proptest::prelude::*;

use super::*;
use crate::felix::ipset::{SetSpec, SetType};

fn spec() -> SetSpec {
    SetSpec { kind: SetType::Net, family: Family::V4, max: 10, counters: false }
}

fn member(n: u8) -> Entry {
    Entry::Net(format!("10.0.0.{n}/32").parse().unwrap())
}

fn add(set: &str, n: u8) -> Command {
    Command::Add(set.to_owned(), member(n))
}

/// A kernel: sets of up to so many members, which refuses those that it does not like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kernel {
    sets: BTreeMap<String, BTreeSet<Entry>>,
    room: usize,
    dislikes: BTreeSet<Entry>,
}

impl Kernel {
    fn obey(&mut self, command: &Command) -> Result<(), (&'static str, bool)> {
        match command {
            Command::Create(set, _) => match self.sets.contains_key(set) {
                true => return Err(("there already", false)),
                false => drop(self.sets.insert(set.clone(), BTreeSet::new())),
            },
            Command::Destroy(set) => drop(self.sets.remove(set)),
            Command::Swap(a, b) => {
                let (Some(one), Some(other)) =
                    (self.sets.get(a).cloned(), self.sets.get(b).cloned())
                else {
                    return Err(("no such set", false));
                };
                self.sets.insert(a.clone(), other);
                self.sets.insert(b.clone(), one);
            }
            Command::Add(set, entry) | Command::Count(set, entry, _) => {
                let Some(members) = self.sets.get_mut(set) else {
                    return Err(("no such set", false));
                };
                if self.dislikes.contains(entry) {
                    return Err(("disliked", false));
                }
                if members.len() >= self.room && !members.contains(entry) {
                    return Err(("is full", true));
                }
                members.insert(entry.clone());
            }
            Command::Delete(set, entry) => match self.sets.get_mut(set) {
                Some(members) => drop(members.remove(entry)),
                None => return Err(("no such set", false)),
            },
        }
        Ok(())
    }

    fn hear(&mut self, commands: &[Command], message: &[usize]) -> Verdict {
        for (at, place) in message.iter().enumerate() {
            if let Err((message, full)) = self.obey(&commands[*place]) {
                return Verdict::Refused { at, message: message.to_owned(), full };
            }
        }
        Verdict::Done
    }
}

/// Tells everything in batches. Returns what was refused, and how many batches it took.
fn tell(kernel: &mut Kernel, commands: &[Command]) -> (Vec<Refused>, usize) {
    let mut queue = Queue::new(commands);
    let mut batches = 0;
    loop {
        let batch = queue.next();
        if batch.is_empty() {
            return (queue.refused(), batches);
        }
        batches += 1;
        // The kernel hears all of them before anybody hears what it said.
        let verdicts: Vec<_> = batch.iter().map(|one| kernel.hear(commands, one)).collect();
        for (message, verdict) in batch.iter().zip(verdicts) {
            queue.settle(message, verdict).unwrap();
        }
    }
}

/// The same, command by command, as one who reads each answer before the next command would.
fn one_by_one(kernel: &mut Kernel, commands: &[Command]) -> Vec<Command> {
    let (mut hopeless, mut full) = (BTreeSet::new(), BTreeSet::new());
    let mut refused: Vec<Command> = Vec::new();
    for command in commands {
        let set = command.set();
        if hopeless.contains(set) || (full.contains(set) && is_add(command)) {
            continue;
        }
        if let Err((_, is_full)) = kernel.obey(command) {
            if matches!(command, Command::Create(..) | Command::Swap(..)) {
                hopeless.insert(set);
            }
            let adds = |c: &&Command| c.set() == set && matches!(c, Command::Add(..));
            let many = refused.iter().filter(adds).count() + 1 >= MOST_OF_ONE;
            if matches!(command, Command::Add(..)) && (is_full || many) {
                full.insert(set);
            }
            refused.push(command.clone());
        }
    }
    refused
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let set = || "[abc]".prop_map(|set: String| format!("cali40{set}"));
    let n = || (0..12_u8).prop_map(member);
    let command = prop_oneof![
        8 => (set(), n()).prop_map(|(set, entry)| Command::Add(set, entry)),
        3 => (set(), n()).prop_map(|(set, entry)| Command::Delete(set, entry)),
        2 => set().prop_map(|set| Command::Create(set, spec())),
        1 => set().prop_map(Command::Destroy),
        1 => (set(), set()).prop_map(|(a, b)| Command::Swap(a, b)),
    ];
    prop::collection::vec(command, 0..60)
}

proptest! {
    #[test]
    fn in_batches_the_same_happens_as_one_by_one(
        commands in commands(),
        there in prop::collection::btree_set("[abc]", 0..3),
        dislikes in prop::collection::btree_set((0..12_u8).prop_map(member), 0..3),
        room in 1..8_usize,
    ) {
        let sets = there.into_iter().map(|set| (format!("cali40{set}"), BTreeSet::new())).collect();
        let mut kernel = Kernel { sets, room, dislikes };
        let mut witness = kernel.clone();
        let (refused, batches) = tell(&mut kernel, &commands);
        let expected = one_by_one(&mut witness, &commands);
        prop_assert_eq!(kernel, witness);
        let refused: Vec<Command> = refused.into_iter().map(|one| one.command).collect();
        prop_assert_eq!(refused, expected);
        prop_assert!(batches <= commands.len());
    }
}

#[test]
fn many_members_are_few_messages_and_many_sets_are_few_batches() {
    let commands: Vec<_> = (0..200_u32).map(|n| Command::Destroy(format!("cali40{n}"))).collect();
    assert_eq!(tell(&mut Kernel::default(), &commands).1, 200_usize.div_ceil(MESSAGES));
    let sets = ["a", "b", "c"].map(|set| (set.to_owned(), BTreeSet::new()));
    let mut kernel = Kernel { sets: sets.into(), room: 10_000, ..Kernel::default() };
    // A member for each of several sets is one batch; then a long run.
    let mut commands = vec![add("a", 1), add("b", 1)];
    commands.extend((0..1200_u32).map(|n| {
        Command::Add(
            "c".to_owned(),
            Entry::Net(format!("10.0.{}.{}/32", n >> 8, n & 255).parse().unwrap()),
        )
    }));
    assert_eq!(tell(&mut kernel, &commands), (vec![], 3));
    assert_eq!(kernel.sets["c"].len(), 1200);
}

#[test]
fn a_set_that_cannot_be_made_is_not_filled_and_takes_no_place() {
    let commands = [
        Command::Create("t".to_owned(), spec()),
        add("t", 1),
        Command::Swap("t".to_owned(), "a".to_owned()),
        Command::Destroy("t".to_owned()),
        add("a", 2),
    ];
    let sets = ["a", "t"].map(|set| (set.to_owned(), BTreeSet::new()));
    let mut kernel = Kernel { sets: sets.into(), room: 10, ..Kernel::default() };
    let (refused, _) = tell(&mut kernel, &commands);
    let refused: Vec<_> = refused.iter().map(|one| one.command.clone()).collect();
    assert_eq!(refused, commands[..1]);
    assert_eq!(kernel.sets["a"], BTreeSet::from([member(2)]));
    assert_eq!(kernel.sets["t"], BTreeSet::new());
}

#[test]
fn endpoints_for_which_there_is_no_room_are_all_named() {
    let behind = |n: u8| {
        Entry::NetIface(format!("10.0.0.{n}").parse().unwrap(), format!("cali{n}").parse().unwrap())
    };
    let commands: Vec<_> = (0..9).map(|n| Command::Add("a".to_owned(), behind(n))).collect();
    let mut kernel =
        Kernel { sets: [("a".to_owned(), BTreeSet::new())].into(), room: 4, ..Kernel::default() };
    let (refused, _) = tell(&mut kernel, &commands);
    let mut refused: Vec<_> = refused.into_iter().map(|one| (one.command, one.full)).collect();
    refused.sort_by_key(|(command, _)| command.to_string());
    let expected: Vec<_> = commands[4..].iter().map(|command| (command.clone(), true)).collect();
    assert_eq!(refused, expected);
    // Of addresses the first is.
    let commands: Vec<_> = (0..9).map(|n| add("b", n)).collect();
    kernel.sets.insert("b".to_owned(), BTreeSet::new());
    assert_eq!(tell(&mut kernel, &commands).0.len(), 1);
}

#[test]
fn one_who_refuses_everything_is_not_asked_for_ever() {
    let commands: Vec<_> = (0..2000).map(|n| Command::Delete(format!("{n}"), member(1))).collect();
    let mut queue = Queue::new(&commands);
    let mut asked = 0;
    let refused = || Verdict::Refused { at: 0, message: "no".to_owned(), full: false };
    'all: loop {
        for message in queue.next() {
            asked += 1;
            if queue.settle(&message, refused()).is_err() {
                break 'all;
            }
        }
    }
    assert_eq!(asked, MOST_REFUSED + 1);
}

/// nf_tables lets go of the sets of deleted rules some time later, of however many.
#[test]
fn sets_that_do_not_go_are_no_reason_to_give_up() {
    let names: Vec<String> = (0..2000).map(|n| format!("cali40{n}")).collect();
    let commands: Vec<_> = names.iter().cloned().map(Command::Destroy).collect();
    let mut queue = Queue::new(&commands);
    let refused = || Verdict::Refused { at: 0, message: "in use".to_owned(), full: false };
    let mut batches = 0;
    loop {
        let batch = queue.next();
        if batch.is_empty() {
            break;
        }
        batches += 1;
        for message in batch {
            assert_eq!(queue.settle(&message, refused()), Ok(1));
        }
    }
    assert_eq!(batches, 2000_usize.div_ceil(MESSAGES));
    let told: Vec<_> = queue.refused().into_iter().map(|one| one.command).collect();
    assert_eq!(told, commands);
}
