use super::*;

/// Returns all messages of these reads, under a limit of 20 bytes, after an opening with this tail.
fn messages(reads: &[&[u8]], tail: Tail) -> Result<Vec<Bytes>, LineError> {
    let mut lines = Lines::new(20, tail);
    let mut found = Vec::new();
    for read in reads {
        lines.push(read);
        while let Some(message) = lines.next_message()? {
            found.push(message);
        }
    }
    Ok(found)
}

fn check(reads: &[&str], expected: &[&str]) {
    let reads: Vec<&[u8]> = reads.iter().map(|read| read.as_bytes()).collect();
    let found = messages(&reads, Tail::Awaited).unwrap();
    let found: Vec<_> = found.iter().map(|message| str::from_utf8(message).unwrap()).collect();
    assert_eq!(found, expected, "{reads:?}");
}

#[test]
fn in_line_mode_only_line_feeds_end_messages() {
    for (reads, expected) in [
        (&["{\"a\":1}\n"][..], &["{\"a\":1}"][..]),
        (&["{\"a\":1}\n{\"b\":2}\r\n"], &["{\"a\":1}", "{\"b\":2}"]),
        (&["{\"a\":1}", "\n", "{\"b\":2}", "{\"c\":3}\n"], &["{\"a\":1}", "{\"b\":2}{\"c\":3}"]),
        (&["{\"a\":1}", "\n[2]", "\n"], &["{\"a\":1}", "[2]"]),
        (&["{\"a\":1}\r", "\n[2]", "\n"], &["{\"a\":1}", "[2]"]),
        (&["{\"a\":1}", "\r", "\n[2]", "\n"], &["{\"a\":1}", "[2]"]),
        (&["{\"a\"", ":1}\n[2", "]", "\n"], &["{\"a\":1}", "[2]"]),
        (&["hello\n{}", "\n"], &["hello", "{}"]),
        (&["hello\nbufferON", "x\n"], &["hello", "bufferONx"]),
        (&["12", "3\n4\n"], &["123", "4"]),
        (&["\n\r\n", "\n", "{}\n\n\n[]\n"], &["{}", "[]"]),
        (&["{}\n  \n"], &["{}", "  "]),
        (
            &["bufferON\nab\r\n", "c", "d\nbufferOFF\nx\n"],
            &["bufferON", "ab", "cd", "bufferOFF", "x"],
        ),
        (&["bufferON", "\nab", "cd\nbufferOFF\n"], &["bufferON", "abcd", "bufferOFF"]),
        (&["bufferON\r", "\nab", "cd\n"], &["bufferON", "abcd"]),
        (&["{}\na\rb\r\r\n"], &["{}", "a\rb\r"]),
        (&["{}\nx"], &["{}"]),
        (&["{}\nIdent: me\n"], &["{}", "Ident: me"]),
    ] {
        check(reads, expected);
    }
}

#[test]
fn in_legacy_mode_a_whole_value_ends_with_its_read() {
    for (reads, expected) in [
        (&["{\"a\":1}"][..], &["{\"a\":1}"][..]),
        (&["{\"a\":1}", "{\"b\":2}"], &["{\"a\":1}", "{\"b\":2}"]),
        (&["{\"a\"", ":1}", "[", "2]"], &["{\"a\":1}", "[2]"]),
        (&["{\"a\":\"}", "\\", "\"}\"}", "[]"], &["{\"a\":\"}\\\"}\"}", "[]"]),
        (&["\"a\"", "true", "null", "false", " [] "], &["\"a\"", "true", "null", "false", " [] "]),
        (&["tr", "ue", "nul", "l "], &["true", "null "]),
        (&["{}", "12", "3\n", "4\n{}"], &["{}", "123", "4", "{}"]),
        (&["{}", "nope", "{}", "\n", "{}"], &["{}", "nope{}", "{}"]),
        (&["{}", "{]", "{}", "\n{}"], &["{}", "{]{}", "{}"]),
        (&["{}", "{}{}", "\n"], &["{}", "{}{}"]),
        (&["{}", "  \n\r\n", "[]"], &["{}", "[]"]),
        (&["{}", "[]\n", "[1]"], &["{}", "[]", "[1]"]),
        (&["{}", "\r[]"], &["{}", "\r[]"]),
        (
            &["bufferON", "{\"a\":", "1}\n", "bufferOFF", "{}"],
            &["bufferON", "{\"a\":", "1}\n", "bufferOFF", "{}"],
        ),
        (
            &["bufferON", "  ", "\n", "bufferOFF\n", "[]"],
            &["bufferON", "  ", "\n", "bufferOFF", "[]"],
        ),
        (&["bufferON", "a", "bufferON\r\n", "b"], &["bufferON", "a", "bufferON", "b"]),
        (
            &["{}", "bufferON", "\na", "bufferOFF", "[]"],
            &["{}", "bufferON", "\na", "bufferOFF", "[]"],
        ),
        (&["{}", "bufferON\nab\ncd", "bufferOFF"], &["{}", "bufferON", "ab\ncd", "bufferOFF"]),
        (&["{}", "bufferO", "FF", "1\n"], &["{}", "bufferOFF", "1"]),
        (&["bufferOFF", "{}"], &["bufferOFF", "{}"]),
    ] {
        check(reads, expected);
    }
}

#[test]
fn late_opening_lines_are_dropped() {
    for (reads, expected) in [
        (&["Ident: me\n", "{}"][..], &["{}"][..]),
        (&["Id", "ent: me\r\n\r\n", "{}\n"], &["{}"]),
        (&["\n", "ident:\n{}\n"], &["ident:", "{}"]),
        (&["  \r\n", "Ident: me\n"], &["Ident: me"]),
        (&["Ident: me\r\n", "\r\n", "Ident: you\n"], &["Ident: you"]),
        (&["\r", "\n", "{}"], &["{}"]),
        (&["Ident: me\nIdent: you\n"], &["Ident: you"]),
        (&["{}", "Ident: me\n"], &["{}", "Ident: me"]),
    ] {
        check(reads, expected);
    }
    assert_eq!(
        messages(&[b"Ident: me\n"], Tail::Closed).unwrap(),
        [Bytes::from_static(b"Ident: me")]
    );
}

#[test]
fn chunks_may_split_a_character() {
    let reads: &[&[u8]] = &[b"bufferON", b"\xc3", b"\xa4", b"bufferOFF"];
    assert_eq!(messages(reads, Tail::Closed).unwrap(), reads);
}

#[test]
fn messages_are_limited() {
    let twenty = "01234567890123456789";
    for (reads, good) in [
        (&[twenty, "\n"][..], true),
        (&[twenty, "\r", "\n"], true),
        (&["{}\n", twenty, "\r\n"], true),
        (&["{}", "bufferON", twenty], true),
        (&[twenty, "x"], false),
        (&[twenty, "\rx"], false),
        (&["0123456789", "0123456789x\n"], false),
        (&["{}\n", twenty, "x\n"], false),
        (&["{}\n", twenty, "x"], false),
        (&["[\"", twenty, "\"]"], false),
        (&["{}", "bufferON", "01234567890123456789x"], false),
    ] {
        let reads: Vec<&[u8]> = reads.iter().map(|read| read.as_bytes()).collect();
        let found = messages(&reads, Tail::Closed);
        assert_eq!(found.is_ok(), good, "{reads:?} {found:?}");
    }
}

/// Knuth's MMIX generator; its high bits.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap()
}

#[test]
fn no_split_changes_the_messages_of_line_mode() {
    let first = [
        "{\"a\":[1,\"}\\\"\"]}",
        "[]",
        "\"x\"",
        "bufferON",
        "hello",
        "12",
        "true",
        "-",
        "{]",
        "nothing",
    ];
    let later = [
        "{}",
        "{\"b\":2}",
        "bufferON",
        "bufferOFF",
        "x",
        "1",
        "",
        " ",
        "\u{e4}\u{1f600}",
        "a\rb",
        "{}{}",
        "[",
    ];
    let state = &mut 1;
    for _ in 0..5_000 {
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        for n in 0..1 + random(state) % 6 {
            let line = if n == 0 { first[random(state) % 10] } else { later[random(state) % 12] };
            sent.extend_from_slice(line.as_bytes());
            sent.extend_from_slice(if random(state).is_multiple_of(2) { b"\n" } else { b"\r\n" });
            if !line.is_empty() {
                expected.push(Bytes::from(line));
            }
        }
        let mut reads = Vec::new();
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            let (read, after) = rest.split_at(rest.len().min(1 + random(state) % 9));
            reads.push(read);
            rest = after;
        }
        assert_eq!(messages(&reads, Tail::Awaited).unwrap(), expected, "{reads:?}");
    }
}

/// Random significant bytes in random reads, taken or not: no panic, and no byte is invented.
#[test]
fn random_input_neither_panics_nor_yields_new_bytes() {
    let state = &mut 7;
    let alphabet = b"{}[]\"\\\n\r t1bufferONF\xc3";
    for _ in 0..3_000 {
        let mut lines = Lines::new(30, Tail::Awaited);
        let (mut pushed, mut taken) = (0, 0);
        'connection: for _ in 0..random(state) % 30 {
            let read: Vec<u8> =
                (0..random(state) % 8).map(|_| alphabet[random(state) % alphabet.len()]).collect();
            pushed += read.len();
            lines.push(&read);
            while !random(state).is_multiple_of(4) {
                match lines.next_message() {
                    Ok(Some(message)) => taken += message.len(),
                    Ok(None) => break,
                    Err(_) => break 'connection,
                }
            }
        }
        assert!(taken <= pushed);
    }
}

/// Values that look whole at every byte, and long ones byte by byte: quadratic time would take
/// minutes.
#[test]
fn single_bytes_cost_linear_time() {
    let size = 2_000_000;
    let spaces = [&b"{]"[..], &vec![b' '; size]].concat();
    let nested = [vec![b'['; size / 2], vec![b']'; size / 2]].concat();
    for (sent, expected) in [(spaces, 0), (nested, 1), (vec![b'{'; size], 0), (vec![b'x'; size], 0)]
    {
        let mut lines = Lines::new(usize::MAX, Tail::Closed);
        let mut found = 0;
        for byte in &sent {
            lines.push(&[*byte]);
            found += usize::from(lines.next_message().unwrap().is_some());
        }
        assert_eq!(found, expected);
    }
}

#[test]
fn an_idle_connection_owns_no_buffer() {
    let mut lines = Lines::new(100, Tail::Closed);
    lines.push(b"{}\n{}\n");
    while lines.next_message().unwrap().is_some() {}
    assert_eq!(lines.buffer.capacity(), 0);
}
