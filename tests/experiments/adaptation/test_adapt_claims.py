"""What the chapters say of the recorded adaptations, held to their results."""

from __future__ import annotations

import pytest

from tlcourse.experiments import load_result

ALIGNED = ("coral", "dan", "dann")


@pytest.fixture(scope="module")
def three():
    return load_result("adapt-digits")


@pytest.fixture(scope="module")
def printed():
    return load_result("adapt-glyphs-digits")


@pytest.fixture(scope="module")
def photographs():
    return load_result("adapt-mnist")


@pytest.mark.claim("claim-adapt-statistics")
def test_claim_new_statistics_lift_the_sources_network_over_six_pairs(claim, three):
    claim.better(three, "batchnorm-mean", "source-mean")


@pytest.mark.claim("claim-adapt-statistics-print")
def test_claim_from_print_new_statistics_help_on_average(claim, printed):
    claim.on_average(printed, "batchnorm", "source")


@pytest.mark.claim("claim-adapt-gain")
def test_claim_dan_and_coral_are_above_the_source_alone(claim, three, printed):
    for way in ("coral", "dan"):
        claim.better(three, f"{way}-mean", "source-mean")
        claim.better(printed, way, "source")
    claim.better(three, "dan-mean", "batchnorm-mean")
    claim.better(printed, "dan", "batchnorm")


@pytest.mark.claim("claim-adapt-photographs")
def test_claim_on_photographs_coral_is_above_new_statistics_and_dan_above_the_source(
    claim, photographs
):
    claim.better(photographs, "coral", "source")
    claim.better(photographs, "coral", "batchnorm")
    claim.better(photographs, "dan", "source")


@pytest.mark.claim("claim-adapt-dann")
def test_claim_dann_gains_over_six_pairs_and_harms_in_two(claim, three, printed):
    claim.better(three, "dann-mean", "source-mean")
    claim.better(three, "batchnorm-mean", "dann-mean")
    claim.better(printed, "source", "dann")
    claim.better(three, "source-digits-usps", "dann-digits-usps")


@pytest.mark.claim("claim-adapt-both")
def test_claim_from_print_both_domains_unaligned_are_behind_the_source_alone(claim, printed):
    claim.better(printed, "source", "both")


@pytest.mark.claim("claim-adapt-from-both")
def test_claim_against_both_unaligned_every_alignment_gains(claim, three, printed):
    for way in ALIGNED:
        claim.better(three, f"{way}-mean", "both-mean")
        claim.better(printed, way, "both")


@pytest.mark.claim("claim-adapt-gap")
def test_claim_the_targets_labels_are_better_than_any_adaptation(
    claim, three, printed, photographs
):
    for way in ("batchnorm", *ALIGNED):
        claim.better(three, "target-mean", f"{way}-mean")
        claim.better(printed, "target", way)
        claim.better(photographs, "target", way)


@pytest.mark.claim("claim-adapt-svm")
def test_claim_an_svm_on_the_sources_pixels_is_behind_new_statistics(
    claim, three, printed, photographs
):
    claim.better(three, "batchnorm-mean", "svm-mean")
    claim.better(printed, "batchnorm", "svm")
    claim.better(photographs, "batchnorm", "svm")


@pytest.fixture(scope="module")
def sensors():
    return load_result("adapt-sensors")


@pytest.mark.claim("claim-adapt-persons")
def test_claim_other_people_leave_nothing_to_gain(claim, sensors):
    for way in ("batchnorm", *ALIGNED):
        claim.no_difference(sensors, f"{way}-persons", "source-persons", within=2)


@pytest.mark.claim("claim-adapt-devices")
def test_claim_on_another_device_alignment_comes_near_the_targets_labels(claim, sensors):
    claim.better(sensors, "batchnorm-devices", "source-devices")
    for way in ("coral", "dan"):
        claim.better(sensors, f"{way}-devices", "batchnorm-devices")
        claim.no_difference(sensors, f"{way}-devices", "target-devices", within=2)


@pytest.mark.claim("claim-adapt-place")
def test_claim_from_torso_to_leg_nothing_helps_beyond_the_spread(claim, sensors):
    for way in ("batchnorm", "dan"):
        claim.on_average(sensors, f"{way}-place", "source-place", seeds=8)
    for way in ("coral", "dann"):
        claim.on_average(sensors, "source-place", f"{way}-place", seeds=8)
    for way in ("source", "batchnorm", *ALIGNED):
        claim.better(sensors, "target-place", f"{way}-place")


@pytest.mark.claim("claim-adapt-price")
def test_claim_held_out_source_images_choose_worse_weights(claim, printed):
    for way in ALIGNED:
        claim.better(printed, f"{way}-best", f"{way}-held")


@pytest.mark.claim("claim-adapt-price-told")
def test_claim_predictions_on_the_target_choose_as_well_as_its_labels(claim, printed):
    for way in ("coral", "dan"):
        claim.no_difference(printed, f"{way}-told", f"{way}-best", within=0.5)


@pytest.mark.claim("claim-adapt-price-photographs")
def test_claim_on_photographs_predictions_on_the_target_choose_worse_than_labels(
    claim, photographs
):
    for way in ("coral", "dan"):
        claim.better(photographs, f"{way}-best", f"{way}-told")


@pytest.mark.claim("claim-adapt-skewed")
def test_claim_with_rare_classes_dan_falls_behind_new_statistics(claim, three):
    claim.better(three, "dan-mnist-usps", "batchnorm-mnist-usps")
    claim.better(three, "batchnorm-skewed", "dan-skewed")


@pytest.mark.claim("claim-adapt-skewed-statistics")
def test_claim_rare_classes_cost_new_statistics_less_than_two_points(claim, three):
    claim.better(three, "batchnorm-mnist-usps", "batchnorm-skewed")
    claim.no_difference(three, "batchnorm-mnist-usps", "batchnorm-skewed", within=2)


@pytest.mark.claim("claim-separation-digits")
def test_claim_rtn_and_dsn_are_between_the_source_alone_and_new_statistics(claim, three):
    for way in ("rtn", "dsn"):
        claim.better(three, f"{way}-mean", "source-mean")
        claim.better(three, "batchnorm-mean", f"{way}-mean")


@pytest.mark.claim("claim-separation-dan")
def test_claim_dan_is_ahead_of_rtn_and_dsn(claim, three):
    for way in ("rtn", "dsn"):
        claim.better(three, "dan-mean", f"{way}-mean")


@pytest.mark.claim("claim-separation-both")
def test_claim_rtn_and_dsn_gain_on_both_unaligned(claim, three):
    for way in ("rtn", "dsn"):
        claim.better(three, f"{way}-mean", "both-mean")


@pytest.mark.claim("claim-separation-print")
def test_claim_from_print_dsn_is_behind_the_source_alone(claim, printed):
    claim.better(printed, "source", "dsn")


@pytest.mark.claim("claim-separation-print-dann")
def test_claim_from_print_so_is_dann(claim, printed):
    claim.better(printed, "source", "dann")


@pytest.mark.claim("claim-separation-rare")
def test_claim_rtn_reads_rare_digits_worse_than_where_they_are_not_rare(claim, three):
    claim.better(three, "rtn-even-rare", "rtn-skewed-rare")


@pytest.mark.claim("claim-separation-weights")
def test_claim_the_worst_weights_put_rtn_behind_the_source_alone(claim, printed):
    claim.better(printed, "source", "rtn-worst")


@pytest.mark.claim("claim-separation-photographs")
def test_claim_on_photographs_dsn_is_above_new_statistics(claim, photographs):
    claim.better(photographs, "dsn", "batchnorm")


@pytest.mark.claim("claim-separation-photographs-dann")
def test_claim_on_photographs_dsn_and_dann_differ_by_less_than_four_points(claim, photographs):
    claim.no_difference(photographs, "dsn", "dann", within=4)


@pytest.mark.claim("claim-separation-rtn-photographs")
def test_claim_on_photographs_rtn_is_behind_new_statistics(claim, photographs):
    claim.better(photographs, "batchnorm", "rtn")


@pytest.fixture(scope="module")
def replayed():
    return load_result("ccsa-replayed")


@pytest.mark.claim("claim-ccsa-fresh")
def test_claim_a_fresh_model_each_time_reads_worse(claim, replayed):
    for n in (1, 7):
        claim.better(replayed, f"released-{n}", f"fresh-{n}")


@pytest.mark.claim("claim-ccsa-last")
def test_claim_the_last_epoch_is_worse_than_the_best_on_the_test(claim, replayed):
    for n in (1, 7):
        claim.better(replayed, f"released-{n}", f"last-{n}")


@pytest.mark.claim("claim-ccsa-leak")
def test_claim_leaks_lift_the_figure_by_less_than_a_tenth_of_a_point(claim, replayed):
    for n in (1, 7):
        claim.better(replayed, f"released-{n}", f"unleaked-{n}")
        claim.no_difference(replayed, f"released-{n}", f"unleaked-{n}", within=0.1)


@pytest.mark.claim("claim-ccsa-repaired")
def test_claim_repaired_it_is_worse_than_as_released(claim, replayed):
    for n in (1, 7):
        claim.better(replayed, f"released-{n}", f"repaired-{n}")
