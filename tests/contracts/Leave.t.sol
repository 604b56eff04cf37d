// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";

import {Town} from "./Town.sol";

contract LeaveTest is Town {
    function testFuzz_the_stake_is_free_after_the_delay(uint32 waited) public {
        bytes32 project = _running(3);
        _as(_trainer(0));
        market.leave(project);
        uint256 free = block.timestamp + 6300;
        vm.assertEq(market.accountOf(project, _trainer(0)).exitAt, free, "free at");
        uint256 at = block.timestamp + waited % 12_600;
        vm.warp(at);
        if (at < free) {
            _refuses(abi.encodeWithSelector(IMarketplace.StillUnbonding.selector, at, free));
        }
        _as(STRANGER);
        market.releaseStake(project, _trainer(0));
        vm.assertEq(_credit(project, _trainer(0)), at < free ? 0 : 50 * TOKEN, "credit");
    }

    function test_who_revealed_and_left_is_still_paid_and_still_slashed() public {
        bytes32 project = _running(3);
        _revealed(project, 3);
        _as(_trainer(0));
        market.leave(project);
        _as(_trainer(2));
        market.leave(project);
        uint256[] memory shares = new uint256[](3);
        shares[0] = 10 * TOKEN;
        shares[2] = type(uint256).max;
        _script(shares);
        _settle(project, AGGREGATOR, 3, "");
        vm.assertEq(_credit(project, _trainer(0)), 10 * TOKEN, "paid");
        vm.assertEq(_stake(project, _trainer(2)), 45 * TOKEN, "slashed");
        vm.assertEq(_credit(project, SINK), 5 * TOKEN, "to the sink");
        vm.assertEq(market.stateOf(project).active, 1, "active");
        vm.assertEq(market.trainers(project).length, 1, "listed");
    }

    function testFuzz_a_settlement_that_is_still_possible_finds_the_stake(uint32 when) public {
        bytes32 project = _running(3);
        _revealed(project, 3);
        uint256 end = market.stateOf(project).settleEnd;
        vm.warp(_between(when, block.timestamp, end - 1));
        _as(_trainer(0));
        market.leave(project);
        vm.assertTrue(market.accountOf(project, _trainer(0)).exitAt >= end, "bound till then");
    }

    function test_only_those_who_are_in_leave_and_only_once() public {
        bytes32 project = _running(2);
        _refuses(abi.encodeWithSelector(IMarketplace.NotTrainer.selector, STRANGER));
        _as(STRANGER);
        market.leave(project);
        _refuses(abi.encodeWithSelector(IMarketplace.NotTrainer.selector, _trainer(0)));
        _as(STRANGER);
        market.releaseStake(project, _trainer(0));
        _as(_trainer(0));
        market.leave(project);
        _refuses(abi.encodeWithSelector(IMarketplace.NotTrainer.selector, _trainer(0)));
        _as(_trainer(0));
        market.leave(project);
        _refuses(abi.encodeWithSelector(IMarketplace.AlreadyJoined.selector, _trainer(0)));
        _join(project, _trainer(0));
    }

    function test_a_place_left_can_be_taken_and_indices_stay_dense() public {
        bytes32 project = _running(3);
        _as(_trainer(0));
        market.leave(project);
        address[] memory active = market.trainers(project);
        vm.assertEq(active.length, 2, "two stay");
        for (uint256 i = 0; i < 2; ++i) {
            vm.assertEq(market.accountOf(project, active[i]).index, i, "index");
        }
        _join(project, _trainer(5));
        vm.assertEq(market.accountOf(project, _trainer(5)).index, 2, "last place");
    }
}
