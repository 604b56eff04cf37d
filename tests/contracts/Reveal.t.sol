// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";

import {Town} from "./Town.sol";

contract RevealTest is Town {
    function testFuzz_a_reveal_is_taken_in_its_window_only(uint40 time) public {
        bytes32 project = _running(3);
        _commit(project, 0);
        IMarketplace.State memory state = market.stateOf(project);
        uint256 at = _between(time, START, START + 8000);
        vm.warp(at);
        if (at < state.commitEnd) {
            _refuses(abi.encodeWithSelector(IMarketplace.TooEarly.selector, at, state.commitEnd));
        } else if (at >= state.revealEnd) {
            _refuses(abi.encodeWithSelector(IMarketplace.TooLate.selector, at, state.revealEnd));
        }
        _reveal(project, 0);
        bool inside = at >= state.commitEnd && at < state.revealEnd;
        vm.assertEq(market.stateOf(project).reveals, inside ? 1 : 0, "revealed");
    }

    function testFuzz_reveals_are_folded_in_their_order(uint8 many) public {
        uint16 n = uint16(_between(many, 2, 9));
        bytes32 project = _running(n);
        _revealed(project, n);
        bytes31 hash = bytes31(uint248(1));
        for (uint256 k = 0; k < n; ++k) {
            hash = bytes31(keccak256(abi.encodePacked(hash, _trainer(k), _point(k, 1))));
        }
        IMarketplace.State memory state = market.stateOf(project);
        vm.assertTrue(state.revealHash == hash, "running hash");
        vm.assertEq(state.reveals, n, "reveals");
        vm.assertTrue(market.accountOf(project, _trainer(0)).revealed, "revealed");
    }

    function testFuzz_what_was_not_committed_to_is_refused(bytes32 x, bytes32 cid) public {
        vm.assume(cid != _cid(0, 1));
        bytes32 project = _running(2);
        _commit(project, 0);
        _commit(project, 1);
        _close(project);
        bytes28 committed = _digest(project, 0, 1);
        bytes32[3] memory point = _point(0, 1);
        bytes28 given = market.commitDigest(project, 1, _trainer(0), point, cid);
        _refuses(abi.encodeWithSelector(IMarketplace.RevealMismatch.selector, committed, given));
        _as(_trainer(0));
        market.reveal(project, point, cid);

        vm.assume(x != point[0]);
        point[0] = x;
        given = market.commitDigest(project, 1, _trainer(0), point, _cid(0, 1));
        _refuses(abi.encodeWithSelector(IMarketplace.RevealMismatch.selector, committed, given));
        _as(_trainer(0));
        market.reveal(project, point, _cid(0, 1));
    }

    function test_another_trainers_point_does_not_open_ones_own_commit() public {
        bytes32 project = _running(2);
        bytes28 copied = _digest(project, 0, 1);
        _commit(project, 0);
        _as(_trainer(1));
        market.commit(project, 1, copied);
        _close(project);
        bytes28 given = market.commitDigest(project, 1, _trainer(1), _point(0, 1), _cid(0, 1));
        _refuses(abi.encodeWithSelector(IMarketplace.RevealMismatch.selector, copied, given));
        _as(_trainer(1));
        market.reveal(project, _point(0, 1), _cid(0, 1));
    }

    function test_nobody_reveals_twice_or_without_a_commit() public {
        bytes32 project = _running(3);
        _commit(project, 0);
        vm.warp(market.stateOf(project).commitEnd);
        _reveal(project, 0);
        _refuses(abi.encodeWithSelector(IMarketplace.AlreadyRevealed.selector, _trainer(0), 1));
        _reveal(project, 0);
        _refuses(abi.encodeWithSelector(IMarketplace.NothingCommitted.selector, _trainer(1), 1));
        _reveal(project, 1);
    }

    function test_a_commit_of_zero_is_worth_nothing() public {
        bytes32 project = _running(2);
        _as(_trainer(0));
        market.commit(project, 1, 0);
        _refuses(abi.encodeWithSelector(IMarketplace.AlreadyCommitted.selector, _trainer(0), 1));
        _as(_trainer(0));
        market.commit(project, 1, bytes28(uint224(1)));
        vm.warp(market.stateOf(project).commitEnd);
        _refuses(abi.encodeWithSelector(IMarketplace.AlreadyRevealed.selector, _trainer(0), 1));
        _reveal(project, 0);
    }
}
