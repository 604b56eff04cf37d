// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGramVerifier} from "contracts/IGramVerifier.sol";
import {IMarketplace} from "contracts/IMarketplace.sol";
import {IScoringRule} from "contracts/IScoringRule.sol";

/// @dev The cheat codes of forge that the tests use.
interface Cheats {
    function warp(uint256 time) external;
    function prank(address sender) external;
    function expectRevert(bytes calldata data) external;
    function assume(bool condition) external pure;
    function addr(uint256 key) external pure returns (address);
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function envString(string calldata name) external view returns (string memory);
    function readFile(string calldata path) external view returns (string memory);
    function parseJsonBytes(string calldata json, string calldata key)
        external
        pure
        returns (bytes memory);
    function assertEq(uint256 left, uint256 right, string calldata words) external pure;
    function assertEq(address left, address right, string calldata words) external pure;
    function assertLe(uint256 left, uint256 right, string calldata words) external pure;
    function assertTrue(bool condition, string calldata words) external pure;
}

interface IMintable {
    function mint(address to, uint256 amount) external;
    function approve(address spender, uint256 amount) external returns (bool);
    function balanceOf(address account) external view returns (uint256);
}

/// @dev Accepts any matrix, or none.
contract Verdict is IGramVerifier {
    bytes32 public constant srsId = bytes32(uint256(1));
    bool public accepts = true;

    function set(bool accepts_) external {
        accepts = accepts_;
    }

    function verify(bytes32, uint32, address, bytes calldata, bytes calldata, bytes calldata)
        external
        view
        returns (bool)
    {
        return accepts;
    }
}

/// @dev Says of the updates what it was told to say, if it is told the root's row that it expects.
contract ScriptedRule is IScoringRule {
    error WrongRoot(uint256 root);

    uint256[] private _scores;
    uint256 private _root;
    bool private _expectsRoot;

    function expectRoot(uint256 root) external {
        (_root, _expectsRoot) = (root, true);
    }

    function set(uint256[] calldata scores) external {
        _scores = scores;
    }

    function checkParams(bytes32 params, uint256) external pure {
        if (params == bytes32(uint256(0xbad))) revert BadRuleParams(params);
    }

    function score(bytes32, uint256 n, uint256 root, bytes calldata, uint256)
        external
        view
        returns (uint256[] memory)
    {
        if (root != (_expectsRoot ? _root : n)) revert WrongRoot(root);
        return _scores;
    }
}

/// @title A place to hold markets in
/// @dev Deploys the released bytecode, which the file that TRIBUTE_ARTEFACTS names holds. Trainers are
/// numbers from 0; so are their keys.
abstract contract Town {
    Cheats internal constant vm = Cheats(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint256 internal constant START = 1_800_000_000;
    uint96 internal constant TOKEN = 10 ** 18;
    uint256 internal constant ONE = 1 << 16;
    address internal constant SPONSOR = address(0x5905);
    address internal constant AGGREGATOR = address(0xA66);
    address internal constant SINK = address(0x51CC);
    address internal constant STRANGER = address(0x57A);
    /// @dev Trainer number 9 by its key, which no crowd here is large enough to have.
    uint256 internal constant ROOT = 9;

    IMarketplace internal market;
    IMintable internal token;
    IScoringRule internal krum;
    ScriptedRule internal script;
    Verdict internal verdict;
    bytes private _refusal;

    function setUp() public virtual {
        vm.warp(START);
        market = IMarketplace(_deploy("Marketplace", ""));
        token = IMintable(_deploy("TestToken", ""));
        krum = IScoringRule(_deploy("MultiKrumShapley", ""));
        script = new ScriptedRule();
        verdict = new Verdict();
    }

    function _deploy(string memory name, bytes memory arguments) internal returns (address made) {
        string memory json = vm.readFile(vm.envString("TRIBUTE_ARTEFACTS"));
        bytes memory code =
            bytes.concat(vm.parseJsonBytes(json, string.concat(".", name, ".bytecode")), arguments);
        assembly {
            made := create(0, add(code, 32), mload(code))
        }
        vm.assertTrue(made != address(0), name);
    }

    // ----------------------------------------------------------------- projects

    function _terms(uint16 capacity) internal view returns (IMarketplace.Params memory p) {
        p.token = address(token);
        p.bondPenalty = 20 * TOKEN;
        p.aggregator = AGGREGATOR;
        p.bond = 100 * TOKEN;
        p.rule = address(script);
        p.reward = 100 * TOKEN;
        p.verifier = address(verdict);
        p.fee = 5 * TOKEN;
        p.slashSink = SINK;
        p.rounds = 3;
        p.capacity = capacity;
        p.minUpdates = 2;
        p.patience = 1;
        p.maxFailures = 2;
        p.stepBits = 14;
        p.stake = 50 * TOKEN;
        p.joinWindow = 600;
        p.commitWindow = 3600;
        p.revealWindow = 1800;
        p.settleWindow = 900;
        p.exclusiveWindow = 300;
        p.unbondingDelay = 6300;
        p.dimension = 1000;
        p.clipNorm = 1 << 18;
        // 10 %, 20 %, then all
        p.slashBps = bytes32(uint256(1000) << 240 | uint256(2000) << 224 | uint256(10_000) << 208);
    }

    function _fund(address who, IMintable money, uint256 amount) internal {
        money.mint(who, amount);
        vm.prank(who);
        money.approve(address(market), type(uint256).max);
    }

    function _open(IMarketplace.Params memory p) internal returns (bytes32) {
        _fund(SPONSOR, IMintable(p.token), uint256(p.rounds) * (uint256(p.reward) + p.fee));
        _as(SPONSOR);
        return market.openProject(p);
    }

    function _bond(bytes32 project) internal {
        IMarketplace.Params memory p = market.paramsOf(project);
        _fund(p.aggregator, IMintable(p.token), p.bond);
        _as(p.aggregator);
        market.postBond(project);
    }

    function _join(bytes32 project, address who) internal {
        IMarketplace.Params memory p = market.paramsOf(project);
        _fund(who, IMintable(p.token), p.stake);
        _as(who);
        market.join(project, 0);
    }

    /// @dev A project whose first round is open to trainers 0 to n − 1, as many as it takes.
    function _running(uint16 n) internal returns (bytes32) {
        return _running(_terms(n), n);
    }

    function _running(IMarketplace.Params memory p, uint256 n) internal returns (bytes32 project) {
        project = _open(p);
        _bond(project);
        for (uint256 k = 0; k < n; ++k) {
            _join(project, _trainer(k));
        }
        uint256 opensAt = market.stateOf(project).opensAt;
        if (block.timestamp < opensAt) vm.warp(opensAt);
    }

    // ------------------------------------------------------------------- rounds

    function _trainer(uint256 k) internal pure returns (address) {
        return vm.addr(k + 1);
    }

    function _point(uint256 k, uint32 round) internal pure returns (bytes32[3] memory point) {
        for (uint256 i = 0; i < 3; ++i) {
            point[i] = keccak256(abi.encode("point", k, round, i));
        }
    }

    function _cid(uint256 k, uint32 round) internal pure returns (bytes32) {
        return keccak256(abi.encode("cid", k, round));
    }

    function _digest(bytes32 project, uint256 k, uint32 round) internal view returns (bytes28) {
        return market.commitDigest(project, round, _trainer(k), _point(k, round), _cid(k, round));
    }

    function _round(bytes32 project) internal view returns (uint32) {
        return market.stateOf(project).round;
    }

    function _commit(bytes32 project, uint256 k) internal {
        uint32 round = _round(project);
        bytes28 digest = _digest(project, k, round);
        _as(_trainer(k));
        market.commit(project, round, digest);
    }

    function _close(bytes32 project) internal {
        uint32 round = _round(project);
        _as(STRANGER);
        market.closeCommits(project, round);
    }

    function _reveal(bytes32 project, uint256 k) internal {
        uint32 round = _round(project);
        _as(_trainer(k));
        market.reveal(project, _point(k, round), _cid(k, round));
    }

    /// @dev Trainers 0 to n − 1 commit and reveal in this order.
    function _revealed(bytes32 project, uint256 n) internal {
        for (uint256 k = 0; k < n; ++k) {
            _commit(project, k);
        }
        _close(project);
        for (uint256 k = 0; k < n; ++k) {
            _reveal(project, k);
        }
    }

    function _list(uint256 n, uint32 round)
        internal
        pure
        returns (address[] memory trainers, bytes memory points)
    {
        trainers = new address[](n);
        for (uint256 k = 0; k < n; ++k) {
            trainers[k] = _trainer(k);
            points = bytes.concat(points, abi.encodePacked(_point(k, round)));
        }
    }

    /// @dev Has the rule give `shares`; an outlier's share is type(uint256).max. Weights go to the first
    /// trainer who is none.
    function _script(uint256[] memory shares) internal {
        uint256[] memory scores = new uint256[](shares.length);
        bool weighed = false;
        for (uint256 k = 0; k < shares.length; ++k) {
            if (shares[k] == type(uint256).max) {
                scores[k] = 1 << 240;
                continue;
            }
            scores[k] = shares[k];
            if (!weighed) scores[k] |= ONE << 192;
            weighed = true;
        }
        script.set(scores);
    }

    function _even(uint256 n) internal {
        uint256[] memory shares = new uint256[](n);
        for (uint256 k = 0; k < n; ++k) {
            shares[k] = 10 * TOKEN;
        }
        _script(shares);
    }

    function _settle(bytes32 project, address settler, uint256 n, bytes memory exclusions)
        internal
    {
        uint256 kept = n;
        for (uint256 i = 0; i < exclusions.length; ++i) {
            if (exclusions[i] != 0) --kept;
        }
        uint32 round = _round(project);
        (address[] memory trainers, bytes memory points) = _list(n, round);
        bytes memory gram = new bytes(4 * kept * (kept + 1));
        _as(settler);
        market.settle(project, round, trainers, points, exclusions, gram, "", bytes32(uint256(7)));
    }

    /// @dev A whole round in which trainers 0 to n − 1 get what `_script` said.
    function _play(bytes32 project, uint256 n) internal {
        _revealed(project, n);
        _settle(project, AGGREGATOR, n, "");
    }

    function _expire(bytes32 project, uint256 n) internal {
        uint32 round = _round(project);
        (address[] memory trainers, bytes memory points) = _list(n, round);
        _as(STRANGER);
        market.expireRound(project, round, trainers, points);
    }

    // -------------------------------------------------------------------- words

    function _status(bytes32 project, IMarketplace.Status expected) internal view {
        vm.assertEq(uint256(market.stateOf(project).status), uint256(expected), "status");
    }

    function _credit(bytes32 project, address who) internal view returns (uint256) {
        return market.accountOf(project, who).credit;
    }

    function _stake(bytes32 project, address who) internal view returns (uint256) {
        return market.accountOf(project, who).stake;
    }

    /// @dev The next action must be refused with exactly this error.
    function _refuses(bytes memory refusal) internal {
        _refusal = refusal;
    }

    /// @dev Lets the next call come from `who`.
    function _as(address who) internal {
        if (_refusal.length != 0) {
            vm.expectRevert(_refusal);
            delete _refusal;
        }
        vm.prank(who);
    }

    function _between(uint256 value, uint256 low, uint256 high) internal pure returns (uint256) {
        return low + value % (high - low + 1);
    }
}
