// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";

import {Town} from "./Town.sol";

contract DeactivateTest is Town {
    function testFuzz_only_who_missed_more_than_patience_is_deactivated(uint8 patience) public {
        IMarketplace.Params memory p = _terms(3);
        p.patience = uint16(patience % 5);
        p.rounds = 20;
        bytes32 project = _running(p, 3);
        _even(2);
        for (uint32 missed = 0; missed <= p.patience; ++missed) {
            _refuses(
                abi.encodeWithSelector(
                    IMarketplace.TooFewMissed.selector, _trainer(2), missed, p.patience
                )
            );
            _as(STRANGER);
            market.deactivate(project, _trainer(2));
            _commit(project, 0);
            _commit(project, 1);
            vm.warp(market.stateOf(project).commitEnd);
            _close(project);
            _reveal(project, 0);
            _reveal(project, 1);
            _settle(project, AGGREGATOR, 2, "");
        }
        _as(STRANGER);
        market.deactivate(project, _trainer(2));
        IMarketplace.Account memory account = market.accountOf(project, _trainer(2));
        vm.assertEq(
            uint256(account.membership), uint256(IMarketplace.Membership.Inactive), "inactive"
        );
        vm.assertEq(account.stake, 50 * TOKEN, "loses nothing");
        vm.assertEq(market.stateOf(project).active, 2, "active");
        // and can still get out, with what it had been paid
        _as(_trainer(2));
        market.leave(project);
        vm.warp(block.timestamp + 6300);
        market.releaseStake(project, _trainer(2));
        vm.assertEq(_credit(project, _trainer(2)), 50 * TOKEN, "stake");
    }

    function test_who_is_not_active_is_not_deactivated() public {
        bytes32 project = _running(2);
        _refuses(abi.encodeWithSelector(IMarketplace.NotTrainer.selector, STRANGER));
        _as(STRANGER);
        market.deactivate(project, STRANGER);
    }

    function test_who_lost_the_whole_stake_is_deactivated_at_once() public {
        IMarketplace.Params memory p = _terms(3);
        p.slashBps = bytes32(uint256(10_000) << 240);
        bytes32 project = _running(p, 3);
        uint256[] memory shares = new uint256[](3);
        shares[0] = type(uint256).max;
        _script(shares);
        _play(project, 3);
        IMarketplace.Account memory account = market.accountOf(project, _trainer(0));
        vm.assertEq(
            uint256(account.membership), uint256(IMarketplace.Membership.Inactive), "inactive"
        );
        vm.assertEq(market.trainers(project)[0], _trainer(2), "the last one fills the gap");
        vm.assertEq(market.accountOf(project, _trainer(2)).index, 0, "and knows it");
        vm.assertEq(_credit(project, SINK), 50 * TOKEN, "sink");
    }
}
