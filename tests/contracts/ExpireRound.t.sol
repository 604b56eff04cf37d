// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";

import {Town} from "./Town.sol";

contract ExpireRoundTest is Town {
    function testFuzz_silence_costs_the_bond_for_those_who_revealed(
        uint8 many,
        uint96 bond,
        uint96 penalty
    ) public {
        uint16 n = uint16(_between(many, 2, 9));
        IMarketplace.Params memory p = _terms(n);
        p.bond = uint96(_between(bond, 0, type(uint88).max));
        p.bondPenalty = uint96(_between(penalty, 0, p.bond));
        bytes32 project = _running(p, n);
        _revealed(project, n);
        uint256 end = market.stateOf(project).settleEnd;
        vm.warp(end - 1);
        _refuses(abi.encodeWithSelector(IMarketplace.TooEarly.selector, end - 1, end));
        _expire(project, n);
        vm.warp(end);
        _expire(project, n);
        for (uint256 k = 0; k < n; ++k) {
            vm.assertEq(_credit(project, _trainer(k)), p.bondPenalty / n, "share");
            vm.assertEq(_stake(project, _trainer(k)), p.stake, "stake");
        }
        IMarketplace.State memory state = market.stateOf(project);
        vm.assertEq(state.bond, p.bond - p.bondPenalty / n * n, "bond");
        vm.assertEq(state.escrow, 315 * TOKEN, "escrow");
        vm.assertEq(state.round, 2, "next round");
        vm.assertEq(state.failures, 1, "failures");
    }

    function test_a_round_with_too_few_reveals_expires_after_them_and_costs_nobody() public {
        bytes32 project = _running(3);
        _commit(project, 0);
        vm.warp(market.stateOf(project).commitEnd);
        _reveal(project, 0);
        uint256 end = market.stateOf(project).revealEnd;
        vm.warp(end - 1);
        _refuses(abi.encodeWithSelector(IMarketplace.TooEarly.selector, end - 1, end));
        _expire(project, 1);
        vm.warp(end);
        _expire(project, 0);
        vm.assertEq(market.stateOf(project).bond, 100 * TOKEN, "bond");
    }

    function test_an_expired_round_is_over() public {
        bytes32 project = _running(2);
        _revealed(project, 2);
        vm.warp(market.stateOf(project).settleEnd);
        _expire(project, 2);
        (address[] memory trainers, bytes memory points) = _list(2, 1);
        _refuses(abi.encodeWithSelector(IMarketplace.WrongRound.selector, 1, 2));
        _as(STRANGER);
        market.expireRound(project, 1, trainers, points);
        _refuses(abi.encodeWithSelector(IMarketplace.WrongRound.selector, 1, 2));
        _as(AGGREGATOR);
        market.settle(project, 1, trainers, points, "", "", "", 0);
    }

    function test_those_who_did_not_reveal_get_nothing_of_the_bond() public {
        bytes32 project = _running(2);
        _revealed(project, 2);
        vm.warp(market.stateOf(project).settleEnd);
        (address[] memory trainers, bytes memory points) = _list(2, 1);
        trainers[0] = STRANGER;
        bytes31 held = market.stateOf(project).revealHash;
        bytes31 hash = bytes31(uint248(1));
        for (uint256 k = 0; k < 2; ++k) {
            hash = bytes31(keccak256(abi.encodePacked(hash, trainers[k], _point(k, 1))));
        }
        _refuses(abi.encodeWithSelector(IMarketplace.RevealListMismatch.selector, held, hash));
        _as(STRANGER);
        market.expireRound(project, 1, trainers, points);
    }

    function test_failures_in_a_row_halt_and_free_everything() public {
        bytes32 project = _running(2);
        for (uint256 i = 0; i < 2; ++i) {
            _revealed(project, 2);
            vm.warp(market.stateOf(project).settleEnd);
            _expire(project, 2);
        }
        _status(project, IMarketplace.Status.Halted);
        vm.assertEq(_credit(project, AGGREGATOR), 60 * TOKEN, "rest of the bond");
        _as(_trainer(0));
        market.leave(project);
        vm.assertEq(
            _credit(project, _trainer(0)), 70 * TOKEN, "stake and two shares of the penalty"
        );
        _as(SPONSOR);
        market.closeProject(project);
        vm.assertEq(_credit(project, SPONSOR), 315 * TOKEN, "escrow");
        _refuses(
            abi.encodeWithSelector(IMarketplace.WrongStatus.selector, IMarketplace.Status.Closed)
        );
        _expire(project, 0);
    }

    function test_a_settled_round_ends_a_row_of_failures() public {
        bytes32 project = _running(2);
        _even(2);
        for (uint256 i = 0; i < 2; ++i) {
            _revealed(project, 2);
            vm.warp(market.stateOf(project).settleEnd);
            _expire(project, 2);
            _play(project, 2);
            vm.assertEq(market.stateOf(project).failures, 0, "row ended");
        }
        _status(project, IMarketplace.Status.Running);
    }
}
