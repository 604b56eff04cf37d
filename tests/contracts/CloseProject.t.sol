// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";

import {Town} from "./Town.sol";

contract CloseProjectTest is Town {
    function testFuzz_the_sponsor_gets_what_no_round_can_claim(uint96 share) public {
        bytes32 project = _running(2);
        uint256 each = _between(share, 0, 50 * TOKEN);
        uint256[] memory shares = new uint256[](2);
        (shares[0], shares[1]) = (each, each);
        _script(shares);
        for (uint256 i = 0; i < 3; ++i) {
            _refuses(
                abi.encodeWithSelector(
                    IMarketplace.WrongStatus.selector, IMarketplace.Status.Running
                )
            );
            _as(SPONSOR);
            market.closeProject(project);
            _play(project, 2);
        }
        _status(project, IMarketplace.Status.Finished);
        _as(SPONSOR);
        market.closeProject(project);
        vm.assertEq(_credit(project, SPONSOR), 3 * (100 * TOKEN - 2 * each), "refund");
        _status(project, IMarketplace.Status.Closed);
        _refuses(
            abi.encodeWithSelector(IMarketplace.WrongStatus.selector, IMarketplace.Status.Closed)
        );
        _as(SPONSOR);
        market.closeProject(project);
        // What trainers and aggregator have stays theirs.
        _as(_trainer(0));
        market.leave(project);
        vm.assertEq(_credit(project, _trainer(0)), 50 * TOKEN + 3 * each, "trainer");
        vm.assertEq(_credit(project, AGGREGATOR), 115 * TOKEN, "aggregator");
    }

    function test_a_project_nobody_bonds_can_be_closed_and_then_not_bonded() public {
        bytes32 project = _open(_terms(2));
        _as(SPONSOR);
        market.closeProject(project);
        vm.assertEq(_credit(project, SPONSOR), 315 * TOKEN, "refund");
        _refuses(
            abi.encodeWithSelector(IMarketplace.WrongStatus.selector, IMarketplace.Status.Closed)
        );
        _bond(project);
    }

    function testFuzz_only_the_sponsor_closes(address who) public {
        vm.assume(who != SPONSOR);
        bytes32 project = _open(_terms(2));
        _refuses(abi.encodeWithSelector(IMarketplace.NotSponsor.selector, who));
        _as(who);
        market.closeProject(project);
    }
}
