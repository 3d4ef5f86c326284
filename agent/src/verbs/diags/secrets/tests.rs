use super::*;

fn clean(text: &str) -> String {
    Secrets::default().clean(text)
}

#[test]
fn nothing_secret_is_left_where_secrets_stand() {
    for text in [
        "ETCD_PASSWORD=hunter2",
        "ETCD_PASSWORD='hunter2 hunter2'",
        "export ETCD_PASSWORD=hunter2 with hunter2",
        "#ETCD_PASSWORD=hunter2",
        "MY_TOKEN=one\\\n  hunter2",
        "TLS_KEY=hunter2",
        "TOKEN==hunter2",
        "TLS_CERT=hunter2",
        "    client-key-data: hunter2",
        "    client-certificate-data: hunter2",
        "{\"tls_key_pem\":\"hunter2\"}",
        "ETCD_KEY_BASE64=hunter2",
        "Environment=ETCD_PASSWORD=a,hunter2",
        "Environment=ETCD_PASSWORD=a&hunter2",
        "Environment=ETCD_PASSWORD=\"a hunter2\"b,hunter2",
        "Environment=\"ETCD_PASSWORD=a hunter2\"",
        "Environment = 'ETCD_PASSWORD=a hunter2'",
        "#Environment=A=b ETCD_PASSWORD=a,hunter2 C=d",
        // Who forgot the quotes.
        "Environment=A=b ETCD_PASSWORD=a hunter2 C=d",
        "Environment=A=b \"ETCD_PASSWORD=a hunter2\" C=d",
        "Environment=A=b \"ETCD_PASSWORD=a \\\" hunter2\" C=d",
        "Environment=A=b \\\n  C=d 'ETCD_PASSWORD=a hunter2'",
        "password = \"hunter2\" # why",
        "password = \"a\\\"hunter2\"",
        "password = \"\"\"\nfirst\nhunter2\n\"\"\"",
        "password = '''hunter2'''",
        "password = [\"hunter2\"]",
        "  password: hunter2 and hunter2",
        "  password: |\n    first\n    hunter2\n  other: 1",
        "  password:\n    hunter2\n",
        "  - secret: hunter2",
        "{\"password\":\"hunter2\",\"a\":1}",
        "{\"password\" : \"x\\\"hunter2\"}",
        "{\"a\":\"{\\\"password\\\":\\\"hunter2\\\"}\"}",
        "{\"a\":\"{\\\"password\\\":\\\"x\\\\\\\"hunter2\\\"}\"}",
        "{\"clientSecret\":\"hunter2\"}",
        "{\"authKey\":\"hunter2\"}",
        "  password \"hunter2\";",
        "  passwords { password \"hunter2\" { from now; }; };",
        "etcdctl --password hunter2 get",
        "etcdctl --password=hunter2 get",
        "GET / Authorization: Bearer hunter2",
        "connecting to http://root:hunter2@etcd:2379/x failed",
        "http://a:1,http://root:hunter2@etcd:2379",
        "http://root:hun@hunter2@etcd",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----\n",
        "\"-----BEGIN PRIVATE KEY-----\\nhunter2\\n-----END PRIVATE KEY-----\\n\"",
        "-----BEGIN EC PRIVATE KEY-----\nhunter2",
    ] {
        let cleaned = clean(text);
        assert!(!cleaned.contains("hunter2") && cleaned.contains(REMOVED), "{text}\n{cleaned}");
    }
}

#[test]
fn everything_else_stays() {
    for text in [
        "ETCD_KEY_FILE=/etc/calico/key.pem\nETCD_KEY=/etc/calico/key.pem\nIP=10.0.0.1\n",
        "{\"key\":\"/x/y\",\"password\":{\"secretKeyRef\":{\"name\":\"a\",\"key\":\"b\"}}}",
        "password_file = \"/run/x\"\n",
        "client-key-data: /etc/calico/key.pem\ntls-key-path: a\nmeta-data: b\nkey-format: pem\n",
        "open /etc/calico/key.pem: permission denied",
        "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n",
        "http://etcd:2379/a mailto:a@b",
        "the secret of success\n  password:\n    secretKeyRef:\n      name: x\n",
        "-A cali-FORWARD -m comment --comment \"cali:abc\" -j ACCEPT\n",
        "role == 'secret' && has(token) && token == 'x' && secret != \"y\"",
        "publicKey: abc\nwireguardPublicKey: abc",
        "ü = 1\n",
        "",
    ] {
        assert_eq!(clean(text), text);
    }
    let text = "a = 1\npassword = \"hunter2\"\nb = \"2\"\n";
    assert_eq!(clean(text), "a = 1\npassword = \"[removed]\"\nb = \"2\"\n");
    let text = "Environment=A=b \"ETCD_PASSWORD=a b\" C=d\nEnvironmentFiles=/a/b\n";
    let cleaned = "Environment=A=b \"ETCD_PASSWORD=[removed]\" C=d\nEnvironmentFiles=/a/b\n";
    assert_eq!(clean(text), cleaned);
    let cleaned = clean("Environment=ETCD_PASSWORD=a,b C=d E=\"f g\"\n");
    assert_eq!(cleaned, "Environment=ETCD_PASSWORD=[removed] C=d E=\"f g\"\n");
    assert_eq!(clean("{\"token\":\"abc\",\"a\":1}"), "{\"token\":\"[removed]\",\"a\":1}");
    assert_eq!(clean("http://u:p@a:1,http://b"), "http://[removed]@a:1,http://b");
    assert_eq!(clean("http://u:p,w@a:1,https://b:2"), "http://[removed]@a:1,https://b:2");
    assert_eq!(clean("http://b:2,https://u:p,w@a:1"), "http://b:2,https://[removed]@a:1");
}

#[test]
fn what_is_known_is_removed_wherever_it_stands() {
    let mut secrets = Secrets::default();
    secrets.learn("ETCD_PASSWORD=cor\"rect horse\nOTHER_TOKEN=abc\nURL=http://root:p%40ssword@x\n");
    let cleaned = secrets.clean("said 'cor\"rect horse' and cor\\\"rect horse; abc; p@ssword root");
    assert_eq!(cleaned, "said '[removed]' and [removed]; abc; [removed] root");
}

#[test]
fn of_units_the_environment_is_known() {
    let mut secrets = Secrets::default();
    secrets.learn_unit(
        "[Service]\nLoadCredential=etcd:/etc/ssl/key.pem\nEnvironment=A=b \\\n  C=d \\\n  \
         \"ETCD_PASSWORD=cor\\\"rect, horse\" E=f\nLogExtraFields=TOKEN=staple\n",
    );
    let cleaned = secrets.clean("read /etc/ssl/key.pem, said 'cor\"rect, horse', staple");
    assert_eq!(cleaned, "read /etc/ssl/key.pem, said '[removed]', staple");
    // Also where a comma ends what is not known.
    let cleaned = secrets.clean("x --password cor\"rect, horse --token other,thing");
    assert_eq!(cleaned, "x --password [removed] --token [removed],thing");
}

#[test]
fn a_long_line_takes_no_longer_than_many_short_ones() {
    let line = "{\"name\":\"value\",\"password\":\"hunter2\"},".repeat(50_000);
    let items = format!("Environment={}", "A=b \"PASSWORD=a hunter2\" \\\n".repeat(50_000));
    let begun = std::time::Instant::now();
    let cleaned = clean(&line) + &clean(&items);
    assert!(!cleaned.contains("hunter2"));
    // Squared it would be minutes.
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}
