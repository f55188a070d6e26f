"""Proposals in the operator's words, and the choice between what is offered and what is configured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsecfast.ike.constants import ADDITIONAL_KES, NoProposalChosen
from ipsecfast.ike.crypto.algorithms import ALGORITHMS, BY_KEYWORD
from ipsecfast.ike.wire import proposal
from ipsecfast.ike.wire.proposal import (
    ProposalError,
    accept_answer,
    additional_groups,
    decode_proposals,
    encode_proposals,
    key_exchange_groups,
    mismatch_text,
    parse_proposal,
    proposal_text,
    select,
    transform_text,
    without_additional,
    without_ke,
)
from ipsecfast.model import Proposal, ProtocolId, Transform, TransformType

ENCR, PRF, INTEG, KE, SN = (TransformType(number) for number in range(1, 6))


def ike(*texts: str) -> list[Proposal]:
    return [parse_proposal(text, ProtocolId.IKE, number) for number, text in enumerate(texts, 1)]


def esp(*texts: str) -> list[Proposal]:
    return [parse_proposal(text, ProtocolId.ESP, number) for number, text in enumerate(texts, 1)]


def by_hand(protocol: ProtocolId, *transforms: Transform, spi: bytes = b"", number: int = 1) -> Proposal:
    return Proposal(protocol, transforms, spi, number)


# -- words ---------------------------------------------------------------------------------------------------------


def test_ike_words() -> None:
    (proposal,) = ike("aes128gcm16-aes256gcm16-prfsha256-x25519-modp2048")
    assert proposal == by_hand(
        ProtocolId.IKE,
        Transform(ENCR, 20, 128),
        Transform(ENCR, 20, 256),
        Transform(PRF, 5),
        Transform(KE, 31),
        Transform(KE, 14),
    )


def test_the_prf_follows_from_the_integrity_algorithm() -> None:
    assert proposal_text(ike("aes128-sha256-ecp256")[0]) == "aes128-prfsha256-sha256-ecp256"
    assert proposal_text(ike("aes256-sha512-sha384-ecp384")[0]) == "aes256-prfsha512-prfsha384-sha512-sha384-ecp384"
    assert proposal_text(ike("aes256-sha512-prfsha256-ecp384")[0]) == "aes256-prfsha256-sha512-ecp384"


def test_an_aead_uses_an_integrity_algorithm_for_its_prf_only() -> None:
    assert ike("aes256gcm16-sha384-ecp384") == ike("aes256gcm16-prfsha384-ecp384")


def test_esn_words() -> None:
    gcm = Transform(ENCR, 20, 128)
    off, on = Transform(SN, 0), Transform(SN, 1)
    assert esp("aes128gcm16")[0].transforms == esp("aes128gcm16-noesn")[0].transforms == (gcm, off)
    assert esp("aes128gcm16-esn")[0].transforms == (gcm, on)
    assert esp("aes128gcm16-esn-noesn")[0].transforms == (gcm, on, off)
    assert esp("noesn-aes128gcm16-esn")[0].transforms == (gcm, off, on)


def test_numbers_that_nobody_promises_to_be_sequential_are_refused() -> None:
    """RFC 9827: value 2, which allows no anti-replay. Beside another one it is passed over."""
    gcm, others = Transform(ENCR, 20, 128), Transform(SN, 2)
    with pytest.raises(NoProposalChosen, match="no common sequence numbers: the peer offers UNSPECIFIED_32;"):
        select([by_hand(ProtocolId.ESP, gcm, others, spi=b"spi!")], esp("aes128gcm16-esn-noesn"))
    both = by_hand(ProtocolId.ESP, gcm, others, Transform(SN, 1), spi=b"spi!")
    assert select([both], esp("aes128gcm16-noesn-esn")).transforms == (gcm, Transform(SN, 1))


def test_aliases_case_and_spaces() -> None:
    assert ike(" AES128GCM128-SHA2_256-Curve25519 ") == ike("aes128gcm16-sha256-x25519")


@pytest.mark.parametrize(
    ("text", "protocol", "says"),
    [
        ("", ProtocolId.IKE, "aes128gcm16"),
        ("aes128gcm16--x25519", ProtocolId.IKE, "no algorithm is called ''"),
        ("aes128gmc16-prfsha256-x25519", ProtocolId.IKE, "did you mean 'aes128gcm16'"),
        ("aes128gcm16-prfsha256-x25518", ProtocolId.IKE, "did you mean 'x25519'"),
        ("3des-sha1-modp1024", ProtocolId.IKE, "no algorithm is called '3des'"),
        ("prfsha256-x25519", ProtocolId.IKE, "no encryption"),
        ("aes128gcm16-x25519", ProtocolId.IKE, "no PRF; add one, such as prfsha256"),
        ("aes128gcm16-prfsha256", ProtocolId.IKE, "no key exchange method; end with one, such as x25519"),
        ("aes128-prfsha256-x25519", ProtocolId.IKE, "such as aes128-sha256"),
        ("aes128gcm16-aes128-sha256-x25519", ProtocolId.IKE, "write two proposals"),
        ("aes128gcm16-prfsha256-x25519-esn", ProtocolId.IKE, "'esn' can't be used for IKE; leave it out"),
        ("aes128gcm16-aes128gcm128-prfsha256-x25519", ProtocolId.IKE, "twice"),
        ("aes128-sha256", ProtocolId.ESP, "'aes128' can't be used for ESP; use one of aes128gcm16"),
        ("aes128gcm16-sha256", ProtocolId.ESP, "'sha256' can't be used for ESP; leave it out"),
        ("aes128gcm16-prfsha256", ProtocolId.ESP, "'prfsha256' can't be used for ESP; leave it out"),
        ("x25519-esn", ProtocolId.ESP, "no encryption"),
    ],
)
def test_what_cannot_work_is_answered_with_what_would(text: str, protocol: ProtocolId, says: str) -> None:
    with pytest.raises(ProposalError) as caught:
        parse_proposal(text, protocol)
    assert says in str(caught.value)


words = st.lists(st.sampled_from([row.keyword for row in ALGORITHMS]), min_size=1, max_size=8, unique=True)


@given(words, st.sampled_from([ProtocolId.IKE, ProtocolId.ESP]))
def test_text_round_trip(chosen: list[str], protocol: ProtocolId) -> None:
    """Every combination of words is refused as such, or survives text and wire."""
    try:
        proposal = parse_proposal("-".join(chosen), protocol)
    except ProposalError:
        return
    assert parse_proposal(proposal_text(proposal), protocol) == proposal
    on_wire = replace(proposal, spi=b"spi!" if protocol == ProtocolId.ESP else b"")
    assert decode_proposals(encode_proposals([on_wire])) == (on_wire,)


def test_every_keyword_is_unique() -> None:
    assert len(BY_KEYWORD) == sum(1 + len(row.aliases) for row in ALGORITHMS)
    assert all(transform_text(row.transform) == row.keyword for row in ALGORITHMS)


def test_transforms_that_we_do_not_have_are_named_too() -> None:
    assert transform_text(Transform(ENCR, 3)) == "ENCR_3DES"
    assert transform_text(Transform(ENCR, 23, 192)) == "ENCR_CAMELLIA_CBC_192"
    assert transform_text(Transform(KE, 999)) == "KE_999"
    assert transform_text(Transform(TransformType(13), 1)) == "UNKNOWN_13_1"
    assert transform_text(Transform(TransformType.ADDKE1, 1)) == "MODP_768"
    assert transform_text(Transform(TransformType.ADDKE1, 35)) == "ke1_mlkem512"
    assert transform_text(Transform(ENCR, 20, 128, b"\x80\x0f\x00\x00")) == "ENCR_AES_GCM_16_128+"


# -- the wire ------------------------------------------------------------------------------------------------------


def test_wire_of_rfc_7296() -> None:
    proposal = replace(esp("aes128gcm16-esn")[0], spi=b"\x01\x02\x03\x04")
    text = "00 00 00 20 01 03 04 02 01 02 03 04 | 03 00 00 0c 01 00 00 14 80 0e 00 80 | 00 00 00 08 05 00 00 01"
    assert encode_proposals([proposal]) == bytes.fromhex(text.replace("|", ""))
    two = encode_proposals([proposal, proposal])
    assert (two[0], two[32]) == (2, 0)
    assert decode_proposals(two) == (proposal, proposal)


# -- the choice ----------------------------------------------------------------------------------------------------


def chosen_text(offered: list[Proposal], configured: list[Proposal]) -> str:
    return proposal_text(select(offered, configured))


def test_the_responders_order_decides() -> None:
    offered = ike("aes128gcm16-aes256gcm16-prfsha256-prfsha384-ecp256-x25519")
    assert chosen_text(offered, ike("aes256gcm16-prfsha384-x25519")) == "aes256gcm16-prfsha384-x25519"
    assert (
        chosen_text(offered, ike("aes256gcm16-aes128gcm16-prfsha256-x25519-ecp256")) == "aes256gcm16-prfsha256-x25519"
    )


def test_the_responders_first_proposal_decides_and_keeps_the_initiators_number_and_spi() -> None:
    offered = [replace(p, spi=b"spi!") for p in esp("aes128gcm16", "aes256gcm16")]
    chosen = select(offered, esp("aes256gcm16", "aes128gcm16"))
    assert (proposal_text(chosen), chosen.number, chosen.spi) == ("aes256gcm16", 2, b"spi!")


@given(st.data())
def test_select_is_what_a_naive_search_finds(data: st.DataObject) -> None:
    """Oracle: the first combination, in the responder's order, of which every transform is offered."""
    ke = st.lists(st.sampled_from(["x25519", "ecp256", "modp2048"]), max_size=2, unique=True)
    esn = st.lists(st.sampled_from(["esn", "noesn"]), max_size=2, unique=True)
    encr = st.lists(st.sampled_from(["aes128gcm16", "aes192gcm16", "aes256gcm16"]), min_size=1, max_size=2, unique=True)
    texts = st.lists(st.tuples(encr, ke, esn).map(lambda t: "-".join(t[0] + t[1] + t[2])), min_size=1, max_size=3)
    offered, configured = esp(*data.draw(texts)), esp(*data.draw(texts))
    wanted = naive_select(offered, configured)
    if wanted is not None:
        assert select(offered, configured) == wanted
        return
    with pytest.raises(NoProposalChosen, match=r"^no common "):
        select(offered, configured)


def naive_select(offered: list[Proposal], configured: list[Proposal]) -> Proposal | None:
    none = Transform(KE, 0)
    for ours in configured:
        for theirs in offered:
            picks = []
            for kind in (ENCR, KE, SN):
                mine = [t for t in ours.transforms if t.type == kind] or [none]
                yours = [t for t in theirs.transforms if t.type == kind] or [none]
                picks.append(next((t for t in mine if t in yours), None))
            if None not in picks:
                return replace(theirs, transforms=tuple(t for t in picks if t is not None and t != none))
    return None


def test_key_exchange_none_means_the_same_as_no_key_exchange() -> None:
    gcm, off, none, x25519 = Transform(ENCR, 20, 128), Transform(SN, 0), Transform(KE, 0), Transform(KE, 31)
    explicit = by_hand(ProtocolId.ESP, gcm, none, off, spi=b"spi!")
    assert select([explicit], esp("aes128gcm16")).transforms == (gcm, none, off)
    optional = by_hand(ProtocolId.ESP, gcm, x25519, none, off, spi=b"spi!")
    assert select([optional], esp("aes128gcm16")).transforms == (gcm, none, off)
    assert select([optional], esp("aes128gcm16-x25519")).transforms == (gcm, x25519, off)
    with pytest.raises(NoProposalChosen):
        select(esp("aes128gcm16-x25519"), esp("aes128gcm16"))
    with pytest.raises(NoProposalChosen):
        select(esp("aes128gcm16"), esp("aes128gcm16-x25519"))


def test_the_first_child_has_no_key_exchange() -> None:
    for offered, configured in (("aes128gcm16-x25519", "aes128gcm16"), ("aes128gcm16", "aes128gcm16-ecp256")):
        chosen = select(esp(offered), esp(configured), ignore_ke=True)
        assert proposal_text(chosen) == "aes128gcm16"
    assert without_ke(esp("aes128gcm16-x25519-esn")[0]) == esp("aes128gcm16-esn")[0]


def test_integrity_none_may_be_offered_with_an_aead() -> None:
    gcm, off = Transform(ENCR, 20, 128), Transform(SN, 0)
    explicit = by_hand(ProtocolId.ESP, gcm, Transform(INTEG, 0), off, spi=b"spi!")
    assert select([explicit], esp("aes128gcm16")).transforms == (gcm, Transform(INTEG, 0), off)
    with_mac = by_hand(ProtocolId.ESP, gcm, Transform(INTEG, 12), off, spi=b"spi!")
    with pytest.raises(NoProposalChosen):
        select([with_mac], esp("aes128gcm16"))


def test_a_proposal_with_an_unknown_transform_type_is_passed_over() -> None:
    """RFC 7296 s3.3.6."""
    good = esp("aes128gcm16")[0]
    strange = replace(good, transforms=(*good.transforms, Transform(TransformType(13), 35)))
    with pytest.raises(NoProposalChosen, match="UNKNOWN_13_35"):
        select([strange], [good])
    assert select([strange, replace(good, number=2)], [good]).number == 2


def test_a_transform_with_an_unknown_attribute_is_passed_over() -> None:
    good = esp("aes128gcm16-aes256gcm16")[0]
    strange = replace(good.transforms[0], other_attributes=b"\x80\x0f\x00\x01")
    chosen = select([replace(good, transforms=(strange, *good.transforms[1:]))], [good])
    assert proposal_text(chosen) == "aes256gcm16"


def test_another_protocol_is_passed_over() -> None:
    ah = replace(esp("aes128gcm16")[0], protocol=ProtocolId.AH)
    with pytest.raises(NoProposalChosen, match="the peer offers AH, configured is ESP"):
        select([ah], esp("aes128gcm16"))


def test_cbc_needs_the_same_integrity_algorithm() -> None:
    assert chosen_text(ike("aes256-sha384-sha256-x25519"), ike("aes256-sha256-x25519")) == (
        "aes256-prfsha256-sha256-x25519"
    )
    with pytest.raises(NoProposalChosen, match="no common integrity: the peer offers sha384; configured: sha256"):
        select(ike("aes256-prfsha256-sha384-x25519"), ike("aes256-sha256-x25519"))


@pytest.mark.parametrize(
    ("offered", "configured", "says"),
    [
        ("aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha256-x25519", "no common encryption: the peer offers aes1"),
        ("aes128gcm16-prfsha384-x25519", "aes128gcm16-prfsha256-x25519", "no common PRF: the peer offers prfsha384"),
        (
            "aes128gcm16-prfsha256-ecp256-ecp384",
            "aes128gcm16-prfsha256-x25519-modp2048",
            "no common key exchange: the peer offers ecp256, ecp384; configured: x25519, modp2048",
        ),
    ],
)
def test_mismatch_names_type_and_both_sides(offered: str, configured: str, says: str) -> None:
    assert says in mismatch_text(ike(offered), ike(configured))


def test_mismatch_reports_the_pair_that_gets_furthest() -> None:
    offered = ike("aes128-sha256-x25519", "aes256gcm16-prfsha256-ecp384")
    assert mismatch_text(offered, ike("aes256gcm16-prfsha256-x25519")) == (
        "no common key exchange: the peer offers ecp384; configured: x25519"
    )


def test_mismatch_of_a_long_offer_stays_one_line() -> None:
    long_offer = by_hand(ProtocolId.IKE, *(Transform(ENCR, 1000 + n) for n in range(200)))
    text = mismatch_text([long_offer], ike("aes128gcm16-prfsha256-x25519"))
    assert text.endswith("and 192 more; configured: aes128gcm16")
    assert mismatch_text([], ike("aes128gcm16-prfsha256-x25519")) == "the peer offers nothing, configured is IKE"


def test_the_initiator_checks_the_answer() -> None:
    offered = ike("aes128gcm16-aes256gcm16-prfsha256-x25519", "aes256-sha256-x25519")
    answer = select(offered, ike("aes256gcm16-prfsha256-x25519"))
    assert accept_answer([answer], offered) == answer
    for wrong in (
        [],
        [answer, answer],
        [replace(answer, number=2)],
        [replace(answer, number=3)],
        [offered[0]],
        ike("aes192gcm16-prfsha256-x25519"),
        [replace(answer, transforms=answer.transforms[:-1])],
        [replace(answer, transforms=(*answer.transforms, Transform(SN, 1)))],
    ):
        with pytest.raises(NoProposalChosen):
            accept_answer(wrong, offered)


def test_key_exchange_groups_in_order() -> None:
    proposals = ike("aes128gcm16-prfsha256-x25519-ecp256", "aes128-sha256-ecp256-modp3072")
    assert key_exchange_groups(proposals) == (31, 19, 15)
    assert key_exchange_groups(esp("aes128gcm16")) == ()
    assert key_exchange_groups([by_hand(ProtocolId.ESP, Transform(KE, 0), Transform(KE, 14))]) == (14,)


# -- additional key exchanges (RFC 9370) -------------------------------------------------------------------------------


def test_additional_key_exchange_words() -> None:
    proposal = ike("aes256gcm16-prfsha384-x25519-ke2_mlkem1024-ke1_mlkem768-ke1_none")[0]
    added = [(t.type, t.id) for t in proposal.transforms if t.type in ADDITIONAL_KES]
    assert added == [(TransformType.ADDKE1, 36), (TransformType.ADDKE1, 0), (TransformType.ADDKE2, 37)]
    assert additional_groups([ike("aes256gcm16-prfsha384-x25519-ke7_x448-ke3_mlkem768")[0]]) == (36, 32)
    assert additional_groups([ike("aes256gcm16-prfsha384-x25519-ke1_none")[0]]) == ()
    assert key_exchange_groups([proposal]) == (31,)


@pytest.mark.parametrize("words", ["x25519-ke1_x25519", "x25519-ke1_mlkem768-ke2_mlkem768"])
def test_no_method_twice(words: str) -> None:
    with pytest.raises(ProposalError, match="a method that no other one has taken"):
        ike(f"aes256gcm16-prfsha384-{words}")


@pytest.mark.parametrize(
    ("offered", "configured", "chosen"),
    [
        ("x25519-ke1_mlkem768", "x25519-ke1_mlkem768", "x25519-ke1_mlkem768"),
        ("x25519-ke1_mlkem768-ke1_mlkem1024", "x25519-ke1_mlkem1024-ke1_mlkem768", "x25519-ke1_mlkem1024"),
        ("x25519-ke1_mlkem768-ke1_none", "x25519", "x25519-ke1_none"),
        ("x25519", "x25519-ke1_mlkem768-ke1_none", "x25519"),
        ("x25519-ke1_mlkem768", "x25519-ke2_mlkem768", None),
        ("x25519-ke1_mlkem768", "x25519", None),
        ("x25519-ecp256-ke1_x25519", "x25519-ecp256-ke1_x25519", "ecp256-ke1_x25519"),
        (
            "x25519-ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768",
            "x25519-ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768",
            "x25519-ke1_mlkem1024-ke2_mlkem768",
        ),
    ],
)
def test_choice_of_additional_key_exchanges(offered: str, configured: str, chosen: str | None) -> None:
    """RFC 9370 s2.2.2: one of each type that is offered, none of them twice."""
    suite = "aes256gcm16-prfsha384-"
    theirs, ours = ike(suite + offered), ike(suite + configured)
    if chosen is None:
        with pytest.raises(NoProposalChosen, match="additional key exchange"):
            select(theirs, ours)
    else:
        answer = select(theirs, ours)
        assert proposal_text(answer) == suite + chosen
        assert accept_answer([answer], theirs) == answer


def test_an_answer_with_a_method_twice_is_refused() -> None:
    offered = ike("aes256gcm16-prfsha384-x25519-ecp256-ke1_x25519")
    twice = replace(offered[0], transforms=tuple(t for t in offered[0].transforms if t.id != 19))
    with pytest.raises(NoProposalChosen):
        accept_answer([twice], offered)


def test_what_is_left_without_additional_key_exchanges() -> None:
    hybrid, either, classic = (
        ike(f"aes256gcm16-prfsha384-x25519{words}")[0] for words in ("-ke1_mlkem768", "-ke1_mlkem768-ke1_none", "")
    )
    assert without_additional([hybrid, classic]) == (classic,)
    assert [proposal_text(p) for p in without_additional([either])] == ["aes256gcm16-prfsha384-x25519-ke1_none"]


def test_the_first_child_has_no_additional_key_exchange_either() -> None:
    assert without_ke(ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768")[0]).transforms == tuple(
        t for t in ike("aes256gcm16-prfsha384-x25519")[0].transforms if t.type != KE
    )


@pytest.mark.parametrize("count", [1, 8])
def test_a_long_offer_is_answered_soon(count: int) -> None:
    """Only what we have configured is tried: a stranger's list, however long, adds one look at each entry."""
    methods = [Transform(TransformType(t), i) for t in (KE, *ADDITIONAL_KES[: count - 1]) for i in range(14, 40)]
    base = [t for t in ike("aes256gcm16-prfsha384-x25519")[0].transforms if t.type != KE]
    ours = ike("aes256gcm16-prfsha384-x25519-ecp256-ecp384-modp3072-ke1_mlkem768")
    offered = by_hand(ProtocolId.IKE, *base, *methods)
    if count == 1:
        with pytest.raises(NoProposalChosen):
            select([offered], ours)
    else:
        with pytest.raises(NoProposalChosen, match="additional key exchange 2"):
            select([offered], ours)


def test_ml_kem_where_openssl_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposal, "HAS_ML_KEM", False)
    with pytest.raises(
        ProposalError, match=r"'ke1_mlkem768' needs the Python package cryptography built on OpenSSL 3\.5"
    ):
        ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768")
    assert ike("aes256gcm16-prfsha384-x25519-ke1_none")


@pytest.mark.parametrize("word", ["mlkem512", "ke1_mlkem512"])
def test_what_has_a_name_and_is_missing_here(word: str) -> None:
    with pytest.raises(
        ProposalError, match=f"'{word}' can't be used: the Python package cryptography has no ML-KEM-512"
    ):
        parse_proposal(f"aes128gcm16-prfsha256-x25519-{word}", ProtocolId.IKE)
