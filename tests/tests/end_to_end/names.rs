//! Mutable names in one repository: keys, records, and paths that begin with a name.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ipfs_exec_tests::vector;

use crate::machine::Machine;
use ipfs_exec_tests::{Environment, requirement};

/// Publishes without a network; gives the name.
fn publish(environment: &Environment, key: &str, path: &str, options: &[&str]) -> String {
    environment
        .ipfs_exec([
            "name",
            "publish",
            "--offline",
            "--allow-offline",
            "--key",
            key,
            path,
        ])
        .arguments(options)
        .succeeds()
        .line()
}

fn resolve(environment: &Environment, name: &str) -> String {
    let resolved = environment.ipfs_exec(["name", "resolve", "--offline", name]);
    resolved.succeeds().line()
}

fn record(environment: &Environment, name: &str) -> Vec<u8> {
    let got = environment.ipfs_exec(["name", "get", "--offline", name]);
    got.succeeds().stdout
}

#[test]
fn keys_are_made_listed_renamed_and_removed() {
    let environment = Environment::new();
    let name = environment
        .ipfs_exec(["key", "gen", "site"])
        .succeeds()
        .line();
    assert!(name.starts_with("k51"), "{name}");
    let long = environment.ipfs_exec(["key", "ls", "-l"]).succeeds();
    let own = environment.ipfs_exec(["id"]).succeeds().line();
    assert_eq!(long.lines()[1], format!("{name} site"));
    let own_in_base58 = environment
        .ipfs_exec(["key", "list", "-l", "--ipns-base", "b58mh"])
        .succeeds();
    assert_eq!(own_in_base58.lines()[0], format!("{own} self"));
    environment
        .ipfs_exec(["key", "gen", "site"])
        .fails(1, &["there is a key `site` already"]);
    environment
        .ipfs_exec(["key", "rename", "site", "page"])
        .succeeds();
    assert_eq!(
        environment.ipfs_exec(["key", "ls"]).succeeds().text(),
        "page\nself\n"
    );
    for (arguments, words) in [
        (&["key", "rm", "self"][..], "cannot be removed"),
        (&["key", "rm", "site"], "there is no key `site`"),
        (&["key", "rename", "self", "x"], "cannot be renamed"),
        (&["key", "gen", "../x"], "is no name for a key"),
        (&["key", "gen", "self"], "cannot be replaced"),
        (
            &["name", "publish", "--key", "nokey", "bafkqaaa"],
            "there is no key `nokey`",
        ),
    ] {
        environment.ipfs_exec(arguments).fails(1, &[words]);
    }
    environment.ipfs_exec(["key", "rm", "page"]).succeeds();
    assert_eq!(
        environment.ipfs_exec(["key", "ls"]).succeeds().text(),
        "self\n"
    );
    environment.assert_clean();
}

/// OpenSSL writes and reads the PEM form; RSA keys belong to old names.
#[test]
fn keys_move_between_repositories_and_programs() {
    requirement::tool("openssl", "openssl");
    let environment = Environment::new();
    for (algorithm, options, prefix) in [
        ("ED25519", &[][..], "k51"),
        ("RSA", &["-pkeyopt", "rsa_keygen_bits:2048"], "k2k"),
    ] {
        let pem = environment.file(format!("{algorithm}.pem"));
        environment
            .program("openssl")
            .arguments(["genpkey", "-quiet", "-algorithm", algorithm, "-out"])
            .argument(&pem)
            .arguments(options)
            .succeeds();
        let name = environment
            .ipfs_exec([
                "key",
                "import",
                algorithm,
                "--format",
                "pem-pkcs8-cleartext",
            ])
            .argument(&pem)
            .succeeds()
            .line();
        assert!(name.starts_with(prefix), "{name}");
        let exported = environment.ipfs_exec([
            "key",
            "export",
            algorithm,
            "--format",
            "pem-pkcs8-cleartext",
            "-o",
            "-",
        ]);
        assert_eq!(exported.succeeds().stdout, fs::read(&pem).unwrap());
        // The other form, into another repository, where it gives the same name.
        let file = environment.file(format!("{algorithm}.key"));
        environment
            .ipfs_exec(["key", "export", algorithm, "-o"])
            .argument(&file)
            .succeeds();
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        environment
            .ipfs_exec(["key", "export", algorithm, "-o"])
            .argument(&file)
            .fails(1, &["File exists"]);
        let other = Environment::new();
        let again = other
            .ipfs_exec(["key", "import", "other"])
            .argument(&file)
            .succeeds();
        assert_eq!(again.line(), name);
        // What one repository signs, the other one accepts.
        assert_eq!(publish(&other, "other", "bafkqaaa", &[]), name);
        environment
            .ipfs_exec(["name", "put", "--offline", &name])
            .input(record(&other, &name))
            .succeeds();
        assert_eq!(resolve(&environment, &name), "/ipfs/bafkqaaa");
        environment
            .ipfs_exec(["key", "import", "wrong", "--format", "pem-pkcs8-cleartext"])
            .argument(&file)
            .fails(1, &["cannot import", "hint: if the key has the other form"]);
    }
    environment.assert_clean();
}

#[test]
fn a_name_is_content_in_every_spelling_and_command() {
    let environment = Environment::new();
    environment.write("tree/file", "named");
    let tree = environment.add("tree");
    environment.ipfs_exec(["key", "gen", "site"]).succeeds();
    let name = publish(&environment, "site", &tree, &[]);
    let spelling = |base| {
        let listed = environment
            .ipfs_exec(["key", "ls", "-l", "--ipns-base", base])
            .succeeds();
        let line = listed
            .lines()
            .into_iter()
            .find(|line| line.ends_with(" site"));
        line.unwrap().split(' ').next().unwrap().to_owned()
    };
    for path in [
        format!("/ipns/{name}"),
        format!("ipns://{name}"),
        name.clone(),
        format!("/ipns/{}", spelling("base32")),
        spelling("base32"),
        format!("/ipns/{}", spelling("b58mh")),
        spelling("b58mh"),
    ] {
        let file = format!("{path}/file");
        assert_eq!(environment.cat(&file), b"named", "{path}");
    }
    let stat = environment
        .ipfs_exec(["stat", &format!("/ipns/{name}")])
        .succeeds();
    assert!(stat.text().contains(&tree), "{stat:?}");
    for arguments in [
        &["ls"][..],
        &["ls-r"],
        &["fetch"],
        &["export"],
        &["pin", "add"],
        &["pin", "ls"],
        &["merge"],
        &["mkdir", "x"],
    ] {
        let call = environment
            .ipfs_exec(arguments)
            .argument(format!("/ipns/{name}"));
        call.argument("--offline").succeeds();
    }
    let file = environment.file("got");
    environment
        .ipfs_exec(["get", &format!("/ipns/{name}/file"), "-o"])
        .argument(&file)
        .succeeds();
    assert_eq!(fs::read(file).unwrap(), b"named");
    environment.ipfs_exec(["diff", &tree, &name]).succeeds();
    environment.assert_clean();
}

#[test]
fn names_lead_to_names_but_never_in_a_circle() {
    let environment = Environment::new();
    for key in ["a", "b"] {
        environment.ipfs_exec(["key", "gen", key]).succeeds();
    }
    let b = publish(&environment, "b", "/ipfs/bafkqaaa", &[]);
    let a = publish(&environment, "a", &format!("/ipns/{b}"), &[]);
    assert_eq!(resolve(&environment, &a), "/ipfs/bafkqaaa");
    let once = environment
        .ipfs_exec(["name", "resolve", "--offline", "--recursive=false", &a])
        .succeeds();
    assert_eq!(once.line(), format!("/ipns/{b}"));
    publish(
        &environment,
        "b",
        &format!("/ipns/{a}"),
        &["--resolve=false"],
    );
    environment
        .ipfs_exec(["cat", "--offline", &format!("/ipns/{a}/x")])
        .fails(1, &["leads back to itself"]);
}

/// Each fixture was made by another program.
#[test]
fn published_records_give_what_they_must() {
    let environment = Environment::new();
    let Some(directory) = vector::directory().map(|directory| directory.join("ipns")) else {
        return;
    };
    let mut seen = 0;
    for (file, name, wanted) in [
        (
            "k51qzi5uqu5dm4tm0wt8srkg9h9suud4wuiwjimndrkydqm81cqtlb5ak6p7ku_v1",
            "k51qzi5uqu5dm4tm0wt8srkg9h9suud4wuiwjimndrkydqm81cqtlb5ak6p7ku",
            None,
        ),
        (
            "k51qzi5uqu5dlkw8pxuw9qmqayfdeh4kfebhmreauqdc6a7c3y7d5i9fi8mk9w_v1-v2",
            "k51qzi5uqu5dlkw8pxuw9qmqayfdeh4kfebhmreauqdc6a7c3y7d5i9fi8mk9w",
            Some("/ipfs/bafkqaddwgevxmmraojswg33smq"),
        ),
        (
            "k51qzi5uqu5diamp7qnnvs1p1gzmku3eijkeijs3418j23j077zrkok63xdm8c_v1-v2-broken-signature-v2",
            "k51qzi5uqu5diamp7qnnvs1p1gzmku3eijkeijs3418j23j077zrkok63xdm8c",
            None,
        ),
        (
            "12D3KooWLQzUv2FHWGVPXTXSZpdHs7oHbXub2G5WC8Tx4NQhyd2d",
            "12D3KooWLQzUv2FHWGVPXTXSZpdHs7oHbXub2G5WC8Tx4NQhyd2d",
            Some("/ipfs/bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am"),
        ),
        (
            "12D3KooWLQzUv2FHWGVPXTXSZpdHs7oHbXub2G5WC8Tx4NQhyd2d",
            "k51qzi5uqu5dk3v4rmjber23h16xnr23bsggmqqil9z2gduiis5se8dht36dam",
            Some("/ipfs/bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am"),
        ),
        (
            "12D3KooWLQzUv2FHWGVPXTXSZpdHs7oHbXub2G5WC8Tx4NQhyd2d",
            "k51qzi5uqu5dgh7y9l90nqs6tvnzcm9erbt8fhzg3fu79p5qt9zb2izvfu51ki",
            None,
        ),
        (
            "k51qzi5uqu5dgh7y9l90nqs6tvnzcm9erbt8fhzg3fu79p5qt9zb2izvfu51ki",
            "k51qzi5uqu5dgh7y9l90nqs6tvnzcm9erbt8fhzg3fu79p5qt9zb2izvfu51ki",
            Some("/ipfs/bafyaaeykceeaeeqlnbswy3dpo5xxe3debimaw"),
        ),
    ] {
        let path = directory.join(format!("{file}.ipns-record"));
        let put = || {
            environment
                .ipfs_exec(["name", "put", "--offline", name])
                .argument(&path)
        };
        let inspect = || {
            environment
                .ipfs_exec(["name", "inspect", "--verify", name])
                .argument(&path)
        };
        match wanted {
            Some(wanted) => {
                put().succeeds();
                inspect().succeeds();
                assert_eq!(resolve(&environment, name), wanted);
                assert_eq!(record(&environment, name), fs::read(&path).unwrap());
            }
            None => {
                put().ends_with(1);
                inspect().ends_with(1);
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 7);
}

#[test]
fn sequence_numbers_never_go_back() {
    let environment = Environment::new();
    environment.ipfs_exec(["key", "gen", "site"]).succeeds();
    let name = publish(&environment, "site", "bafkqaaa", &[]);
    let first = record(&environment, &name);
    let sequence = || {
        let inspected = environment
            .ipfs_exec(["name", "inspect", "--json", "--verify", &name])
            .input(record(&environment, &name));
        inspected.succeeds().json()[0]["sequence"].as_u64().unwrap()
    };
    assert_eq!(sequence(), 0);
    // The same value for longer keeps its number, another one does not.
    publish(&environment, "site", "bafkqaaa", &["--lifetime", "72h"]);
    assert_eq!(sequence(), 0);
    publish(&environment, "site", "bafkqaaa", &["--lifetime", "1h"]);
    assert_eq!(sequence(), 1);
    publish(
        &environment,
        "site",
        "bafkqaddwgevxmmraojswg33smq",
        &["--resolve=false"],
    );
    assert_eq!(sequence(), 2);
    let put = |options: &[&str]| {
        let call = environment
            .ipfs_exec(["name", "put", "--offline", &name])
            .arguments(options);
        call.input(first.clone())
    };
    put(&[]).fails(1, &["sequence number 0", "one with 2", "--force"]);
    assert_eq!(sequence(), 2);
    put(&["--force"]).succeeds();
    assert_eq!(sequence(), 0);
    publish(&environment, "site", "bafkqaaa", &["--sequence", "7"]);
    assert_eq!(sequence(), 7);
    let publishing = [
        "name",
        "publish",
        "--offline",
        "--key",
        "site",
        "bafkqaaa",
        "--sequence",
        "7",
    ];
    environment
        .ipfs_exec(publishing)
        .fails(1, &["is not higher than that of the last record, 7"]);
}

/// Only the signature of version 2 is in it, and others must take it so.
#[test]
fn a_record_of_version_2_alone_is_read() {
    let environment = Environment::new();
    environment.ipfs_exec(["key", "gen", "site"]).succeeds();
    let name = publish(&environment, "site", "bafkqaaa", &["--v1compat=false"]);
    let record = record(&environment, &name);
    let inspected = environment.ipfs_exec(["name", "inspect", "--json", "--verify", &name]);
    let inspected = inspected.input(record.clone()).succeeds();
    assert_eq!(inspected.json()[0]["signatures"], "V2");
    let other = Environment::new();
    other
        .ipfs_exec(["name", "put", "--offline", &name])
        .input(record)
        .succeeds();
    assert_eq!(resolve(&other, &name), "/ipfs/bafkqaaa");
}

#[test]
fn what_cannot_be_published_or_read_is_one_clear_error() {
    let environment = Environment::new();
    environment.ipfs_exec(["key", "gen", "site"]).succeeds();
    let name = publish(&environment, "site", "bafkqaaa", &[]);
    let file = environment.write("large", vec![0; 20_000]);
    let large = file.to_str().unwrap();
    for (arguments, words) in [
        (
            &[
                "name",
                "publish",
                "--key",
                "site",
                "bafkqaaa",
                "--lifetime",
                "0s",
            ][..],
            "cannot be valid for 0",
        ),
        (
            &[
                "name", "publish", "--key", "site", "bafkqaaa", "--ttl", "49h",
            ],
            "is longer than the lifetime",
        ),
        (
            &["name", "publish", "--key", "site", "nonsense"],
            "is not a CID",
        ),
        (
            &[
                "name",
                "publish",
                "--offline",
                "--key",
                "site",
                "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn",
            ],
            "cannot publish",
        ),
        (
            &["name", "publish", "--offline", "--key", "site", "bafkqaaa"],
            "is kept, but no DHT peer",
        ),
        (
            &["name", "put", "--offline", &name, large],
            "more than 10240",
        ),
        (
            &["name", "resolve", "--offline", "example.org"],
            "the network is not asked",
        ),
        (
            &["name", "resolve", "--offline", "site"],
            "is no mutable name",
        ),
        (
            &[
                "cat",
                "--offline",
                "/ipns/12D3KooWLQzUv2FHWGVPXTXSZpdHs7oHbXub2G5WC8Tx4NQhyd2d",
            ],
            "no record of it",
        ),
    ] {
        let outcome = environment.ipfs_exec(arguments).fails(1, &[words]);
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
        assert_eq!(outcome.errors().len(), 1, "{outcome:?}");
    }
    environment
        .ipfs_exec(["name", "publish", "--ttl", "-1s", "bafkqaaa"])
        .fails(2, &["invalid value '-1s'"]);
    environment
        .ipfs_exec(["name", "inspect"])
        .input("nonsense")
        .fails(1, &["record"]);
    // A damaged file is named, stays, and does not stop the repair.
    let stored = environment.repository().join("names").join(&name);
    let record = record(&environment, &name);
    fs::write(&stored, "damaged").unwrap();
    environment
        .ipfs_exec(["name", "resolve", "--offline", &name])
        .fails(1, &["holds no record of its name", "--force"]);
    assert_eq!(fs::read(&stored).unwrap(), b"damaged");
    environment
        .ipfs_exec(["name", "put", "--offline", "--force", &name])
        .input(record)
        .succeeds();
    assert_eq!(resolve(&environment, &name), "/ipfs/bafkqaaa");
    environment.assert_clean();
}

/// A record that expires is of no use to `resolve`, and still a former value for `name swap`.
#[test]
fn a_swap_prints_what_it_replaces() {
    let environment = Environment::new();
    environment.ipfs_exec(["key", "gen", "site"]).succeeds();
    let contents: Vec<_> = ["one", "two", "three"]
        .iter()
        .map(|name| {
            environment.write(name, *name);
            environment.add(name)
        })
        .collect();
    let swap = |options: &[&str], input: &str| {
        environment
            .ipfs_exec(["--offline", "--allow-offline"])
            .called_as("ipfs-publish-swap")
            .arguments(options)
            .argument("site")
            .input(input)
            .succeeds()
    };
    let [one, two, three] = &contents[..] else {
        unreachable!()
    };
    let first = swap(&[], one);
    assert_eq!(first.text(), "", "{first:?}");
    assert!(first.stderr.contains("published"), "{first:?}");
    assert_eq!(swap(&[], one).text(), "");
    // A CID of version 1 names the same content.
    let same = environment.ipfs_exec(["stat", "--json", one]).succeeds();
    assert_eq!(same.json()[0]["cid"], one.as_str());
    let both = swap(
        &["--lifetime", "1ms", "--ttl", "0s"],
        &format!("{two}\n\n{three}\n"),
    );
    assert_eq!(both.lines(), [one.as_str(), two.as_str()]);
    environment
        .ipfs_exec(["name", "resolve", "--offline"])
        .argument(
            environment
                .ipfs_exec(["key", "ls", "-l"])
                .succeeds()
                .lines()[1]
                .split(' ')
                .next()
                .unwrap(),
        )
        .fails(1, &["has expired"]);
    assert_eq!(swap(&[], &format!("/ipfs/{one}")).line(), *three);
    environment.assert_clean();
}

#[test]
fn orphans_are_pinned_and_published_under_no_key() {
    let environment = Environment::new();
    let contents: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|name| {
            environment.write(format!("{name}/file"), *name);
            environment.add(name)
        })
        .collect();
    let orphans = || {
        environment
            .ipfs_exec(["--offline"])
            .called_as("ipfs-orphans")
    };
    let mut all = contents.clone();
    all.sort();
    assert_eq!(orphans().succeeds().lines(), all);
    environment.ipfs_exec(["key", "gen", "site"]).succeeds();
    orphans().fails(1, &["because of the key `site`"]);
    publish(&environment, "site", &contents[0], &[]);
    publish(
        &environment,
        "self",
        &format!(
            "/ipns/{}",
            environment
                .ipfs_exec(["key", "ls", "-l"])
                .succeeds()
                .lines()[1]
                .split(' ')
                .next()
                .unwrap()
        ),
        &[],
    );
    let left = orphans().succeeds().lines();
    assert_eq!(left.len(), 2);
    assert!(!left.contains(&contents[0]));
    publish(
        &environment,
        "site",
        &contents[1],
        &["--lifetime", "1ms", "--ttl", "0s"],
    );
    let failed = orphans().fails(1, &["has expired"]);
    assert!(failed.stdout.is_empty(), "{failed:?}");
}

/// A name is resolved once, when the run starts, and the report says to what.
#[test]
fn a_run_takes_names_and_reports_what_they_stood_for() {
    let machine = Machine::new();
    let environment = &machine.environment;
    environment.write("input/word", "named input");
    let input = environment.add("input");
    for key in ["rootfs", "input"] {
        environment.ipfs_exec(["key", "gen", key]).succeeds();
    }
    let rootfs_name = publish(environment, "rootfs", &machine.rootfs, &[]);
    let input_name = publish(environment, "input", &input, &[]);
    let run = environment
        .ipfs_exec(["run", "--offline", "-T", "--json"])
        .arguments([
            format!("/ipns/{rootfs_name}"),
            format!("ipns://{input_name}"),
        ])
        .arguments(["cp", "/input/word", "/output/"])
        .succeeds();
    let report = &run.json()[0];
    assert_eq!(report["rootfs"], *machine.rootfs);
    assert_eq!(report["input"], input.as_str());
    let output = report["cid"].as_str().unwrap();
    assert_eq!(environment.cat(&format!("{output}/word")), b"named input");
    let unknown = "k51qzi5uqu5dk3v4rmjber23h16xnr23bsggmqqil9z2gduiis5se8dht36dam";
    environment
        .ipfs_exec(["run", "--offline", unknown, &input, "true"])
        .fails(125, &["cannot resolve /ipns/k51"]);
    environment.assert_clean();
}
