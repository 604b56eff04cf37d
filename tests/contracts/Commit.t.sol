// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMarketplace} from "contracts/IMarketplace.sol";

import {Town} from "./Town.sol";

/// @dev A wallet that signs with its owner's key (EIP-1271).
contract Wallet {
    address private immutable OWNER;

    constructor(address owner) {
        OWNER = owner;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        (bytes32 r, bytes32 s, uint8 v) = abi.decode(signature, (bytes32, bytes32, uint8));
        return ecrecover(hash, v, r, s) == OWNER ? this.isValidSignature.selector : bytes4(0);
    }
}

contract CommitTest is Town {
    bytes32 private constant DOMAIN = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    );

    function _message(bytes32 project, uint32 round, address trainer, bytes28 digest)
        private
        view
        returns (bytes32)
    {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN, keccak256("Tribute"), keccak256("1"), block.chainid, address(market))
        );
        bytes32 content = keccak256(
            abi.encode(
                keccak256("Commit(bytes32 project,uint32 round,address trainer,bytes28 digest)"),
                project,
                round,
                trainer,
                digest
            )
        );
        return keccak256(abi.encodePacked("\x19\x01", domain, content));
    }

    function _signed(uint256 k, bytes32 message) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(k + 1, message);
        return abi.encodePacked(r, s, v);
    }

    function _relay(bytes32 project, uint32 round, address trainer, bytes28 digest, bytes memory by)
        private
    {
        address[] memory trainers = new address[](1);
        bytes28[] memory digests = new bytes28[](1);
        bytes[] memory signatures = new bytes[](1);
        (trainers[0], digests[0], signatures[0]) = (trainer, digest, by);
        _as(STRANGER);
        market.commitFor(project, round, trainers, digests, signatures);
    }

    function testFuzz_a_commit_is_taken_in_its_window_only(uint40 time, bytes28 digest) public {
        IMarketplace.Params memory p = _terms(3);
        bytes32 project = _open(p);
        _bond(project);
        _join(project, _trainer(0));
        uint256 at = _between(time, START, START + 8000);
        vm.warp(at);
        if (at < START + 600) {
            _refuses(abi.encodeWithSelector(IMarketplace.TooEarly.selector, at, START + 600));
        } else if (at >= START + 4200) {
            _refuses(abi.encodeWithSelector(IMarketplace.TooLate.selector, at, START + 4200));
        }
        _as(_trainer(0));
        market.commit(project, 1, digest);
        bool inside = at >= START + 600 && at < START + 4200;
        vm.assertEq(market.accountOf(project, _trainer(0)).lastCommit, inside ? 1 : 0, "committed");
    }

    function test_the_last_second_counts_and_the_next_does_not() public {
        bytes32 project = _running(3);
        vm.warp(market.stateOf(project).commitEnd - 1);
        _commit(project, 0);
        vm.warp(block.timestamp + 1);
        _refuses(
            abi.encodeWithSelector(IMarketplace.TooLate.selector, block.timestamp, block.timestamp)
        );
        _commit(project, 1);
    }

    function test_nobody_commits_twice() public {
        bytes32 project = _running(3);
        _commit(project, 0);
        _refuses(abi.encodeWithSelector(IMarketplace.AlreadyCommitted.selector, _trainer(0), 1));
        _commit(project, 0);
    }

    function testFuzz_only_the_current_round_is_committed_to(uint32 round) public {
        vm.assume(round != 1);
        bytes32 project = _running(3);
        _refuses(abi.encodeWithSelector(IMarketplace.WrongRound.selector, round, 1));
        _as(_trainer(0));
        market.commit(project, round, bytes28(uint224(5)));
    }

    function test_only_active_trainers_commit() public {
        bytes32 project = _running(3);
        _refuses(abi.encodeWithSelector(IMarketplace.NotTrainer.selector, STRANGER));
        _as(STRANGER);
        market.commit(project, 1, bytes28(uint224(5)));
        _as(_trainer(0));
        market.leave(project);
        _refuses(abi.encodeWithSelector(IMarketplace.NotTrainer.selector, _trainer(0)));
        _commit(project, 0);
    }

    function testFuzz_a_signed_commit_may_come_from_anybody(bytes28 digest) public {
        bytes32 project = _running(3);
        bytes memory by = _signed(0, _message(project, 1, _trainer(0), digest));
        _relay(project, 1, _trainer(0), digest, by);
        vm.assertEq(market.accountOf(project, _trainer(0)).lastCommit, 1, "committed");
        // again: nothing to do
        _relay(project, 1, _trainer(0), digest, by);
        bytes28 other = ~digest;
        by = _signed(0, _message(project, 1, _trainer(0), other));
        _refuses(abi.encodeWithSelector(IMarketplace.AlreadyCommitted.selector, _trainer(0), 1));
        _relay(project, 1, _trainer(0), other, by);
    }

    function test_a_signature_is_good_for_one_trainer_round_project_and_digest() public {
        bytes32 project = _running(3);
        bytes32 elsewhere = _running(3);
        bytes28 digest = bytes28(uint224(5));
        bytes memory bad = abi.encodeWithSelector(IMarketplace.BadSignature.selector, 0);
        bytes memory by = _signed(0, _message(project, 1, _trainer(0), digest));
        _refuses(bad);
        _relay(elsewhere, 1, _trainer(0), digest, by);
        _refuses(bad);
        _relay(project, 1, _trainer(1), digest, by);
        _refuses(bad);
        _relay(project, 1, _trainer(0), bytes28(uint224(6)), by);
        _refuses(bad);
        _relay(project, 1, _trainer(0), digest, "");
        by = _signed(0, _message(project, 2, _trainer(0), digest));
        _refuses(bad);
        _relay(project, 1, _trainer(0), digest, by);
    }

    function test_a_strangers_signature_is_no_trainers() public {
        bytes32 project = _running(3);
        bytes memory by = _signed(7, _message(project, 1, _trainer(7), bytes28(uint224(5))));
        _refuses(abi.encodeWithSelector(IMarketplace.NotTrainer.selector, _trainer(7)));
        _relay(project, 1, _trainer(7), bytes28(uint224(5)), by);
    }

    function test_wallets_sign_each_for_itself() public {
        IMarketplace.Params memory p = _terms(4);
        bytes32 project = _open(p);
        _bond(project);
        Wallet first = new Wallet(_trainer(0));
        Wallet second = new Wallet(_trainer(0));
        _join(project, address(first));
        _join(project, address(second));
        vm.warp(market.stateOf(project).opensAt);
        bytes28 digest = bytes28(uint224(5));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(1, _message(project, 1, address(first), digest));
        bytes memory by = abi.encode(r, s, v);
        // The owner's other wallet would take the signature for its own, were it not named in it.
        _refuses(abi.encodeWithSelector(IMarketplace.BadSignature.selector, 0));
        _relay(project, 1, address(second), digest, by);
        _relay(project, 1, address(first), digest, by);
        vm.assertEq(market.accountOf(project, address(first)).lastCommit, 1, "committed");
    }

    function test_lists_of_a_relay_are_of_one_length() public {
        bytes32 project = _running(3);
        address[] memory trainers = new address[](2);
        _refuses(abi.encodeWithSelector(IMarketplace.LengthMismatch.selector, 2, 1));
        _as(STRANGER);
        market.commitFor(project, 1, trainers, new bytes28[](1), new bytes[](2));
        _refuses(abi.encodeWithSelector(IMarketplace.LengthMismatch.selector, 2, 3));
        _as(STRANGER);
        market.commitFor(project, 1, trainers, new bytes28[](2), new bytes[](3));
    }
}
