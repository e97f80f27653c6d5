from recovery.common.wording import counted, shortened


def test_shortened_cuts_only_a_list_longer_than_at_most():
    assert shortened([]) == ""
    assert shortened(["a", "b"], at_most=2) == "a, b"
    assert shortened(["a", "b", "c"], at_most=2) == "a, b and 1 more"
    assert shortened(list(range(25))).endswith("18, 19 and 5 more")
    assert shortened([1, 2, 3], at_most=2, between="; ") == "1; 2 and 1 more"
    assert shortened(["one", "two", "three"], at_most=2, between="\n") == "one\ntwo\nand 1 more"


def test_counted_says_one_thing_and_several_things():
    assert [counted(number, "view") for number in (0, 1, 2, 2000)] == ["0 views", "1 view", "2 views", "2,000 views"]
