// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";

import {Town} from "./Town.sol";

contract JoinTest is Town {
    function testFuzz_joining_deposits_the_stake(uint96 stake) public {
        IMarketplace.Params memory p = _terms(4);
        p.stake = uint96(_between(stake, 0, type(uint88).max));
        bytes32 project = _open(p);
        _bond(project);
        uint256 before = token.balanceOf(address(market));
        _join(project, _trainer(0));
        IMarketplace.Account memory account = market.accountOf(project, _trainer(0));
        vm.assertEq(account.stake, p.stake, "stake");
        vm.assertEq(uint256(account.membership), uint256(IMarketplace.Membership.Active), "active");
        vm.assertEq(token.balanceOf(address(market)), before + p.stake, "held");
        vm.assertEq(market.trainers(project)[0], _trainer(0), "listed");
    }

    function testFuzz_a_full_project_starts_at_once(uint16 capacity, uint32 waited) public {
        uint16 n = uint16(_between(capacity, 2, 20));
        bytes32 project = _open(_terms(n));
        _bond(project);
        vm.warp(START + waited % 600);
        for (uint256 k = 0; k < n; ++k) {
            vm.assertEq(market.stateOf(project).opensAt, START + 600, "waits for trainers");
            _join(project, _trainer(k));
        }
        vm.assertEq(market.stateOf(project).opensAt, START + waited % 600, "starts");
    }

    function test_nobody_joins_before_the_bond_stands() public {
        bytes32 project = _open(_terms(4));
        _refuses(
            abi.encodeWithSelector(IMarketplace.WrongStatus.selector, IMarketplace.Status.Bonding)
        );
        _join(project, _trainer(0));
    }

    function test_only_the_aggregator_posts_the_bond_and_once() public {
        bytes32 project = _open(_terms(4));
        _refuses(abi.encodeWithSelector(IMarketplace.NotAggregator.selector, STRANGER));
        _as(STRANGER);
        market.postBond(project);
        _bond(project);
        _refuses(
            abi.encodeWithSelector(IMarketplace.WrongStatus.selector, IMarketplace.Status.Running)
        );
        _bond(project);
    }

    function test_nobody_joins_twice_or_over_capacity() public {
        bytes32 project = _running(2);
        _refuses(abi.encodeWithSelector(IMarketplace.AlreadyJoined.selector, _trainer(0)));
        _join(project, _trainer(0));
        _refuses(abi.encodeWithSelector(IMarketplace.ProjectFull.selector, 2));
        _join(project, _trainer(2));
    }

    function test_nobody_joins_without_the_stake() public {
        bytes32 project = _open(_terms(4));
        _bond(project);
        _fund(STRANGER, token, 50 * TOKEN - 1);
        _refuses(
            abi.encodeWithSignature(
                "ERC20InsufficientBalance(address,uint256,uint256)",
                STRANGER,
                50 * TOKEN - 1,
                50 * TOKEN
            )
        );
        _as(STRANGER);
        market.join(project, 0);
    }

    function test_strikes_outlive_leaving_and_joining_again() public {
        bytes32 project = _running(3);
        uint256[] memory shares = new uint256[](3);
        shares[2] = type(uint256).max;
        _script(shares);
        _play(project, 3);
        vm.assertEq(market.accountOf(project, _trainer(2)).strikes, 1, "struck");
        _as(_trainer(2));
        market.leave(project);
        vm.warp(block.timestamp + 6300);
        market.releaseStake(project, _trainer(2));
        vm.assertEq(_credit(project, _trainer(2)), 45 * TOKEN, "what the slash left");
        _join(project, _trainer(2));
        vm.assertEq(market.accountOf(project, _trainer(2)).strikes, 1, "still struck");
        vm.assertEq(_stake(project, _trainer(2)), 50 * TOKEN, "a whole stake again");
    }
}
