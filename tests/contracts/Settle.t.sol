// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";

import {Town} from "./Town.sol";

contract SettleTest is Town {
    function _send(bytes32 project, uint32 round, address[] memory trainers, bytes memory points)
        private
    {
        bytes memory gram = new bytes(4 * trainers.length * (trainers.length + 1));
        _as(AGGREGATOR);
        market.settle(project, round, trainers, points, "", gram, "", 0);
    }

    function testFuzz_shares_fee_and_slash_go_where_they_belong(uint256 seed) public {
        uint16 n = uint16(_between(seed, 2, 8));
        bytes32 project = _running(n);
        uint256[] memory shares = new uint256[](n);
        uint256 left = 100 * TOKEN;
        uint256 paid = 0;
        uint256 slashed = 0;
        for (uint256 k = 0; k < n; ++k) {
            uint256 word = uint256(keccak256(abi.encode(seed, k)));
            if (k > 0 && word % 3 == 0) {
                shares[k] = type(uint256).max;
                slashed += 5 * TOKEN;
            } else {
                shares[k] = word % (left + 1);
                left -= shares[k];
                paid += shares[k];
            }
        }
        _script(shares);
        _play(project, n);
        for (uint256 k = 0; k < n; ++k) {
            bool outlier = shares[k] == type(uint256).max;
            vm.assertEq(_credit(project, _trainer(k)), outlier ? 0 : shares[k], "credit");
            vm.assertEq(_stake(project, _trainer(k)), outlier ? 45 * TOKEN : 50 * TOKEN, "stake");
        }
        vm.assertEq(_credit(project, SINK), slashed, "sink");
        vm.assertEq(_credit(project, AGGREGATOR), 5 * TOKEN, "fee and no slash");
        vm.assertEq(market.stateOf(project).escrow, 310 * TOKEN - paid, "escrow");
    }

    function test_strikes_follow_the_schedule_and_are_forgiven_one_a_round() public {
        IMarketplace.Params memory p = _terms(3);
        p.rounds = 9;
        bytes32 project = _running(p, 3);
        uint256[] memory bad = new uint256[](3);
        bad[2] = type(uint256).max;
        uint256[] memory good = new uint256[](3);
        _script(bad);
        _play(project, 3);
        vm.assertEq(_stake(project, _trainer(2)), 45 * TOKEN, "first strike: 10 %");
        _script(good);
        _play(project, 3);
        vm.assertEq(market.accountOf(project, _trainer(2)).strikes, 0, "forgiven");
        _script(bad);
        _play(project, 3);
        vm.assertEq(_stake(project, _trainer(2)), 40 * TOKEN, "first strike again");
        _play(project, 3);
        vm.assertEq(_stake(project, _trainer(2)), 30 * TOKEN, "second strike: 20 %");
        _play(project, 3);
        vm.assertEq(_stake(project, _trainer(2)), 0, "third strike: all that is left");
        vm.assertEq(_credit(project, SINK), 50 * TOKEN, "never more than the stake");
    }

    function testFuzz_it_is_settled_in_its_window_only(uint32 when) public {
        bytes32 project = _running(3);
        for (uint256 k = 0; k < 2; ++k) {
            _commit(project, k);
        }
        vm.warp(market.stateOf(project).commitEnd);
        _close(project);
        _reveal(project, 0);
        _even(1);
        IMarketplace.State memory state = market.stateOf(project);
        uint256 at = _between(when, block.timestamp, state.settleEnd + 100);
        vm.warp(at);
        if (at < state.revealEnd) {
            _refuses(abi.encodeWithSelector(IMarketplace.TooEarly.selector, at, state.revealEnd));
        } else if (at >= state.settleEnd) {
            _refuses(abi.encodeWithSelector(IMarketplace.TooLate.selector, at, state.settleEnd));
        }
        _settle(project, AGGREGATOR, 1, "");
    }

    function test_nothing_is_settled_twice() public {
        bytes32 project = _running(2);
        _even(2);
        _play(project, 2);
        (address[] memory trainers, bytes memory points) = _list(2, 1);
        _refuses(abi.encodeWithSelector(IMarketplace.WrongRound.selector, 1, 2));
        _send(project, 1, trainers, points);
        _play(project, 2);
        _play(project, 2);
        (trainers, points) = _list(2, 3);
        _refuses(
            abi.encodeWithSelector(IMarketplace.WrongStatus.selector, IMarketplace.Status.Finished)
        );
        _send(project, 3, trainers, points);
    }

    function testFuzz_others_settle_after_the_exclusive_window(uint32 when) public {
        bytes32 project = _running(2);
        _revealed(project, 2);
        _even(2);
        IMarketplace.State memory state = market.stateOf(project);
        uint256 at = _between(when, state.revealEnd, state.settleEnd - 1);
        vm.warp(at);
        bool early = at < state.revealEnd + 300;
        if (early) {
            _refuses(abi.encodeWithSelector(IMarketplace.NotAggregator.selector, STRANGER));
        }
        _settle(project, STRANGER, 2, "");
        vm.assertEq(_credit(project, STRANGER), early ? 0 : 5 * TOKEN, "the fee");
    }

    function test_the_sink_may_not_settle_and_a_stranger_not_exclude() public {
        bytes32 project = _running(3);
        _revealed(project, 3);
        _even(2);
        vm.warp(market.stateOf(project).revealEnd + 300);
        _refuses(abi.encodeWithSelector(IMarketplace.SinkMayNotSettle.selector, SINK));
        _settle(project, SINK, 3, "");
        _refuses(abi.encodeWithSelector(IMarketplace.ExclusionNotAllowed.selector, STRANGER));
        _settle(project, STRANGER, 3, hex"010000");
        _settle(project, AGGREGATOR, 3, hex"010000");
        vm.assertEq(_credit(project, _trainer(0)), 0, "excluded");
        vm.assertEq(_stake(project, _trainer(0)), 50 * TOKEN, "and nothing lost");
    }

    function test_lists_must_be_whole_and_in_order() public {
        bytes32 project = _running(3);
        _revealed(project, 3);
        _even(3);
        (address[] memory trainers, bytes memory points) = _list(2, 1);
        _refuses(abi.encodeWithSelector(IMarketplace.LengthMismatch.selector, 3, 2));
        _send(project, 1, trainers, points);
        (trainers,) = _list(3, 1);
        _refuses(abi.encodeWithSelector(IMarketplace.LengthMismatch.selector, 288, 192));
        _send(project, 1, trainers, points);
        (trainers, points) = _list(3, 1);
        (trainers[0], trainers[1]) = (trainers[1], trainers[0]);
        bytes31 hash = bytes31(uint248(1));
        for (uint256 k = 0; k < 3; ++k) {
            hash = bytes31(keccak256(abi.encodePacked(hash, trainers[k], _point(k, 1))));
        }
        bytes31 held = market.stateOf(project).revealHash;
        _refuses(abi.encodeWithSelector(IMarketplace.RevealListMismatch.selector, held, hash));
        _send(project, 1, trainers, points);
        (trainers, points) = _list(3, 1);
        _refuses(abi.encodeWithSelector(IMarketplace.LengthMismatch.selector, 3, 2));
        _settle(project, AGGREGATOR, 3, hex"0000");
        _refuses(abi.encodeWithSelector(IMarketplace.LengthMismatch.selector, 48, 47));
        _as(AGGREGATOR);
        market.settle(project, 1, trainers, points, "", new bytes(47), "", 0);
    }

    function test_a_point_is_counted_once() public {
        bytes32 project = _running(3);
        bytes memory points;
        address[] memory trainers = new address[](3);
        for (uint256 k = 0; k < 3; ++k) {
            bytes32[3] memory own = _point(k % 2, 1);
            // The negative of a point has another y.
            if (k == 2) own[2] = ~own[2];
            bytes28 digest = market.commitDigest(project, 1, _trainer(k), own, 0);
            _as(_trainer(k));
            market.commit(project, 1, digest);
        }
        _close(project);
        for (uint256 k = 0; k < 3; ++k) {
            bytes32[3] memory own = _point(k % 2, 1);
            if (k == 2) own[2] = ~own[2];
            trainers[k] = _trainer(k);
            points = bytes.concat(points, abi.encodePacked(own));
            _as(_trainer(k));
            market.reveal(project, own, 0);
        }
        _even(3);
        _refuses(abi.encodeWithSelector(IMarketplace.DuplicatePoint.selector, 0, 2));
        _send(project, 1, trainers, points);
        _even(2);
        _as(AGGREGATOR);
        market.settle(project, 1, trainers, points, hex"000005", new bytes(24), "", 0);
    }

    function test_the_verifiers_no_stands() public {
        bytes32 project = _running(2);
        _revealed(project, 2);
        _even(2);
        verdict.set(false);
        _refuses(abi.encodeWithSelector(IMarketplace.GramRejected.selector));
        _settle(project, AGGREGATOR, 2, "");
    }

    function test_a_rule_that_breaks_its_word_pays_nobody() public {
        bytes32 project = _running(2);
        _revealed(project, 2);
        bytes memory misbehaved =
            abi.encodeWithSelector(IMarketplace.RuleMisbehaved.selector, address(script));
        uint256[] memory scores = new uint256[](2);
        for (uint256 i = 0; i < 7; ++i) {
            (scores[0], scores[1]) = (ONE << 192, 0);
            if (i == 0) scores[0] |= 100 * TOKEN + 1; // more than the pot
            if (i == 1) (scores[0], scores[1]) = (ONE << 192 | 60 * TOKEN, 60 * TOKEN);
            if (i == 2) scores[1] = 1 << 192; // weights of more than one
            if (i == 3) scores[0] = (ONE - 1) << 192; // and of less
            if (i == 4) scores[1] = 1 << 240 | 1; // an outlier with a share
            if (i == 5) scores[1] = 1 << 224; // strikes are not the rule's to say
            if (i == 6) scores = new uint256[](1);
            script.set(scores);
            _refuses(misbehaved);
            _settle(project, AGGREGATOR, 2, "");
        }
    }

    function testFuzz_shutting_out_enough_costs_what_silence_does(uint8 many, uint8 out) public {
        uint16 n = uint16(_between(many, 2, 8));
        IMarketplace.Params memory p = _terms(n);
        p.minUpdates = 2;
        bytes32 project = _running(p, n);
        _revealed(project, n);
        bytes memory exclusions = new bytes(n);
        for (uint256 k = _between(out, 0, 1); k < n; ++k) {
            exclusions[k] = 0x01;
        }
        _settle(project, AGGREGATOR, n, exclusions);
        IMarketplace.State memory state = market.stateOf(project);
        vm.assertEq(state.bond, 80 * TOKEN, "bond");
        vm.assertEq(_credit(project, SINK), 20 * TOKEN, "sink");
        vm.assertEq(state.escrow, 315 * TOKEN, "escrow");
        vm.assertEq(state.failures, 1, "failed");
        for (uint256 k = 0; k < n; ++k) {
            vm.assertEq(_stake(project, _trainer(k)), 50 * TOKEN, "stakes stay");
        }
    }

    function test_excluding_for_ever_ends_the_project_with_a_poorer_aggregator() public {
        bytes32 project = _running(2);
        for (uint256 i = 0; i < 2; ++i) {
            _revealed(project, 2);
            _settle(project, AGGREGATOR, 2, hex"0101");
        }
        _status(project, IMarketplace.Status.Halted);
        vm.assertEq(_credit(project, AGGREGATOR), 60 * TOKEN, "bond less two penalties");
    }

    function test_too_few_reveals_cost_the_aggregator_nothing() public {
        bytes32 project = _running(3);
        _commit(project, 0);
        vm.warp(market.stateOf(project).commitEnd);
        _close(project);
        _reveal(project, 0);
        _settle(project, AGGREGATOR, 1, hex"01");
        vm.assertEq(market.stateOf(project).bond, 100 * TOKEN, "bond");
        vm.assertEq(market.stateOf(project).failures, 1, "failed");
    }

    function test_a_credit_beyond_96_bits_stops_nobody() public {
        IMarketplace.Params memory p = _terms(2);
        p.rounds = 1;
        p.fee = 0;
        p.reward = type(uint96).max;
        p.stake = type(uint88).max;
        bytes32 project = _running(p, 2);
        _as(_trainer(0));
        market.leave(project);
        vm.warp(block.timestamp + 6300);
        market.releaseStake(project, _trainer(0));
        _expire(project, 0);
        _join(project, _trainer(0));
        uint256[] memory shares = new uint256[](2);
        shares[0] = type(uint96).max;
        _script(shares);
        _play(project, 2);
        vm.assertEq(
            _credit(project, _trainer(0)), uint256(type(uint96).max) + type(uint88).max, "credit"
        );
        _as(_trainer(0));
        market.withdraw(project);
    }
}
