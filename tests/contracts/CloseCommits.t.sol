// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";

import {Town} from "./Town.sol";

contract CloseCommitsTest is Town {
    function testFuzz_the_window_ends_early_once_all_have_committed(uint8 many, uint32 waited)
        public
    {
        uint16 n = uint16(_between(many, 2, 9));
        bytes32 project = _running(n);
        vm.warp(START + waited % 3600);
        for (uint256 k = 0; k < n; ++k) {
            _refuses(
                abi.encodeWithSelector(IMarketplace.CommitsMissing.selector, n - k, START + 3600)
            );
            _close(project);
            _commit(project, k);
        }
        _close(project);
        IMarketplace.State memory state = market.stateOf(project);
        vm.assertEq(state.commitEnd, block.timestamp, "ends now");
        vm.assertEq(state.revealEnd, block.timestamp + 1800, "reveals");
        vm.assertEq(state.settleEnd, block.timestamp + 2700, "settlement");
        vm.assertEq(state.commits, n, "commits");
    }

    function test_one_fast_trainer_does_not_shut_out_those_who_would_join() public {
        bytes32 project = _running(_terms(4), 1);
        _commit(project, 0);
        uint256 until = market.stateOf(project).commitEnd;
        _refuses(abi.encodeWithSelector(IMarketplace.CommitsMissing.selector, 1, until));
        _close(project);
        _join(project, _trainer(1));
        _commit(project, 1);
        _close(project);
    }

    function test_closing_is_refused_early_twice_and_for_another_round() public {
        bytes32 project = _open(_terms(3));
        _bond(project);
        _join(project, _trainer(0));
        _refuses(abi.encodeWithSelector(IMarketplace.TooEarly.selector, START, START + 600));
        _close(project);
        vm.warp(START + 4200);
        _refuses(abi.encodeWithSelector(IMarketplace.WrongRound.selector, 2, 1));
        _as(STRANGER);
        market.closeCommits(project, 2);
        bytes32 full = _running(2);
        _commit(full, 0);
        _commit(full, 1);
        _close(full);
        uint256 end = market.stateOf(full).commitEnd;
        _refuses(abi.encodeWithSelector(IMarketplace.TooLate.selector, block.timestamp, end));
        _close(full);
    }

    function test_after_the_window_those_who_committed_are_counted() public {
        bytes32 project = _running(4);
        _commit(project, 0);
        _commit(project, 2);
        uint256 end = market.stateOf(project).commitEnd;
        vm.warp(end + 5);
        _close(project);
        vm.assertEq(market.stateOf(project).commits, 2, "commits");
        vm.assertEq(market.stateOf(project).commitEnd, end, "the window stays as it was");
    }

    function test_who_reveals_and_leaves_does_not_let_the_round_end_before_others_reveal() public {
        bytes32 project = _running(3);
        for (uint256 k = 0; k < 3; ++k) {
            _commit(project, k);
        }
        vm.warp(market.stateOf(project).commitEnd);
        _reveal(project, 0);
        _as(_trainer(0));
        market.leave(project);
        _close(project);
        vm.assertEq(market.stateOf(project).commits, 3, "the reveal that stands is counted");
        _reveal(project, 1);
        _even(2);
        uint256 until = market.stateOf(project).revealEnd;
        _refuses(abi.encodeWithSelector(IMarketplace.TooEarly.selector, block.timestamp, until));
        _settle(project, AGGREGATOR, 2, "");
        _reveal(project, 2);
        _even(3);
        _settle(project, AGGREGATOR, 3, "");
        vm.assertEq(_credit(project, _trainer(2)), 10 * TOKEN, "paid like the others");
    }
}
