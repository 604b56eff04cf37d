// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IGramVerifier} from "./IGramVerifier.sol";
import {IMarketplace} from "./IMarketplace.sol";
import {IScoringRule} from "./IScoringRule.sol";

/// @title Tribute marketplace
/// @dev Every action has the same shape: checks, arithmetic, writes, event, transfer last.
/// What trainers touch each round is packed: `Clock` is all that `commit` and `reveal` read of a
/// project, `Ticket` all they write of a trainer, `Member` all that `settle` writes of one.
contract Marketplace is IMarketplace, EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// One slot: where the current round stands.
    struct Clock {
        Status status;
        uint8 failures;
        uint16 active;
        uint16 commits;
        uint32 round;
        uint40 opensAt;
        uint40 commitEnd;
        uint40 revealEnd;
        uint40 settleEnd;
    }

    /// One slot: the project's money and how many rounds it paid.
    struct Purse {
        uint96 escrow;
        uint96 bond;
        uint32 settledRounds;
    }

    /// One slot: running hash of the reveals and their number.
    struct Reveals {
        uint8 count;
        bytes31 hash;
    }

    struct Project {
        Clock clock;
        Purse purse;
        Reveals reveals;
        address sponsor;
        Params params;
        address[] active;
    }

    /// One slot: what an address owns in a project, and its standing.
    struct Member {
        uint96 stake;
        uint96 credit;
        uint8 strikes;
        Membership membership;
        uint16 index;
    }

    /// One slot: an active trainer's last commit; never zero while it is active, so that a commit
    /// never pays for a fresh slot. `digest` becomes zero when it is revealed.
    struct Ticket {
        uint32 round;
        bytes28 digest;
    }

    uint256 private constant ONE = 1 << 16;
    uint256 private constant MAX_CAPACITY = 128;
    uint256 private constant MAX_WINDOW = 365 days;
    uint256 private constant POINT_BYTES = 96;
    bytes28 private constant NO_DIGEST = bytes28(uint224(1));
    bytes32 private constant COMMIT_TYPEHASH =
        keccak256("Commit(bytes32 project,uint32 round,bytes28 digest)");

    mapping(bytes32 project => Project) private _projects;
    mapping(bytes32 project => mapping(address account => Member)) private _members;
    mapping(bytes32 project => mapping(address account => Ticket)) private _tickets;
    mapping(bytes32 project => mapping(address account => uint40)) private _exitAt;
    mapping(address sponsor => uint256) private _nonces;

    constructor() EIP712("Tribute", "1") {}

    // ---------------------------------------------------------------- sponsor

    /// @inheritdoc IMarketplace
    function openProject(Params calldata p) external nonReentrant returns (bytes32 project) {
        _checkParams(p);
        uint256 total = uint256(p.rounds) * (uint256(p.reward) + p.fee);
        if (total > type(uint96).max) revert BadParam("reward");

        project = keccak256(abi.encode(block.chainid, address(this), msg.sender, _nonces[msg.sender]++, p));
        Project storage s = _projects[project];
        s.sponsor = msg.sender;
        s.params = p;
        s.clock.status = Status.Bonding;
        s.purse.escrow = uint96(total);
        emit ProjectOpened(project, msg.sender, p);

        IScoringRule(p.rule).checkParams(p.ruleParams);
        _pull(p.token, total);
    }

    /// @inheritdoc IMarketplace
    function closeProject(bytes32 project) external {
        Project storage s = _known(project);
        if (msg.sender != s.sponsor) revert NotSponsor(msg.sender);
        Status status = s.clock.status;
        if (status != Status.Bonding && status != Status.Finished && status != Status.Halted) {
            revert WrongStatus(status);
        }
        uint96 refund = s.purse.escrow;
        s.purse.escrow = 0;
        s.clock.status = Status.Closed;
        _members[project][msg.sender].credit += refund;
        emit ProjectClosed(project, refund);
    }

    // --------------------------------------------------------------- trainers

    /// @inheritdoc IMarketplace
    function join(bytes32 project, bytes32 encryptionKey) external nonReentrant {
        Project storage s = _running(project);
        Params storage p = s.params;
        Member storage m = _members[project][msg.sender];
        if (m.membership != Membership.None) revert AlreadyJoined(msg.sender);
        Clock memory clock = s.clock;
        if (clock.active == p.capacity) revert ProjectFull(clock.active);

        uint16 index = clock.active++;
        s.active.push(msg.sender);
        m.membership = Membership.Active;
        m.index = index;
        m.stake = p.stake;
        _tickets[project][msg.sender] = Ticket(clock.round - 1, NO_DIGEST);
        if (clock.round == 1 && clock.active == p.capacity && block.timestamp < clock.opensAt) {
            _open(clock, p, block.timestamp);
        }
        s.clock = clock;
        emit Joined(project, msg.sender, index, encryptionKey);

        _pull(p.token, p.stake);
    }

    /// @inheritdoc IMarketplace
    function commit(bytes32 project, uint32 round, bytes28 digest) external {
        _inCommitWindow(project, round);
        Ticket storage ticket = _tickets[project][msg.sender];
        uint32 last = ticket.round;
        if (ticket.digest == 0 && last == 0) revert NotTrainer(msg.sender);
        if (last == round) revert AlreadyCommitted(msg.sender, round);
        _tickets[project][msg.sender] = Ticket(round, digest == 0 ? NO_DIGEST : digest);
        emit Committed(project, msg.sender, round);
    }

    /// @inheritdoc IMarketplace
    function commitFor(
        bytes32 project,
        uint32 round,
        address[] calldata signers,
        bytes28[] calldata digests,
        bytes[] calldata signatures
    ) external {
        if (digests.length != signers.length) revert LengthMismatch(signers.length, digests.length);
        if (signatures.length != signers.length) revert LengthMismatch(signers.length, signatures.length);
        _inCommitWindow(project, round);
        for (uint256 i = 0; i < signers.length; ++i) {
            address trainer = signers[i];
            bytes28 digest = digests[i] == 0 ? NO_DIGEST : digests[i];
            Ticket memory ticket = _tickets[project][trainer];
            if (ticket.digest == 0 && ticket.round == 0) revert NotTrainer(trainer);
            bytes32 message =
                _hashTypedDataV4(keccak256(abi.encode(COMMIT_TYPEHASH, project, round, digests[i])));
            if (!SignatureChecker.isValidSignatureNowCalldata(trainer, message, signatures[i])) {
                revert BadSignature(i);
            }
            if (ticket.round == round) {
                if (ticket.digest == digest) continue;
                revert AlreadyCommitted(trainer, round);
            }
            _tickets[project][trainer] = Ticket(round, digest);
            emit Committed(project, trainer, round);
        }
    }

    /// @inheritdoc IMarketplace
    function reveal(bytes32 project, bytes32[3] calldata point, bytes32 cid) external {
        Project storage s = _projects[project];
        Clock memory clock = s.clock;
        if (clock.status != Status.Running) _refuseStatus(clock.status, project);
        if (block.timestamp < clock.commitEnd) revert TooEarly(block.timestamp, clock.commitEnd);
        if (block.timestamp >= clock.revealEnd) revert TooLate(block.timestamp, clock.revealEnd);
        Ticket memory ticket = _tickets[project][msg.sender];
        if (ticket.round != clock.round) revert NothingCommitted(msg.sender, clock.round);
        if (ticket.digest == 0) revert AlreadyRevealed(msg.sender, clock.round);
        bytes28 digest = commitDigest(project, clock.round, msg.sender, point, cid);
        if (digest != ticket.digest) revert RevealMismatch(ticket.digest, digest);

        _tickets[project][msg.sender] = Ticket(clock.round, 0);
        Reveals memory reveals = s.reveals;
        s.reveals = Reveals(
            reveals.count + 1, bytes31(keccak256(abi.encodePacked(reveals.hash, msg.sender, point)))
        );
        emit Revealed(project, msg.sender, clock.round, point, cid);
    }

    /// @inheritdoc IMarketplace
    function leave(bytes32 project) external {
        Project storage s = _known(project);
        Member storage m = _members[project][msg.sender];
        Membership membership = m.membership;
        if (membership != Membership.Active && membership != Membership.Inactive) {
            revert NotTrainer(msg.sender);
        }
        if (membership == Membership.Active) _dropActive(project, s, msg.sender);
        bool ended = s.clock.status != Status.Running;
        // A settlement that is still possible must find the stake that it may slash.
        uint40 exitAt = uint40(block.timestamp + (ended ? 0 : s.params.unbondingDelay));
        m.membership = Membership.Leaving;
        _exitAt[project][msg.sender] = exitAt;
        emit LeaveRequested(project, msg.sender, exitAt);
        if (ended) _releaseStake(project, msg.sender);
    }

    /// @inheritdoc IMarketplace
    function releaseStake(bytes32 project, address trainer) external {
        Project storage s = _known(project);
        if (_members[project][trainer].membership != Membership.Leaving) revert NotTrainer(trainer);
        uint40 exitAt = _exitAt[project][trainer];
        if (s.clock.status == Status.Running && block.timestamp < exitAt) {
            revert StillUnbonding(block.timestamp, exitAt);
        }
        _releaseStake(project, trainer);
    }

    // -------------------------------------------------------------- aggregator

    /// @inheritdoc IMarketplace
    function postBond(bytes32 project) external nonReentrant {
        Project storage s = _known(project);
        Params storage p = s.params;
        Clock memory clock = s.clock;
        if (clock.status != Status.Bonding) revert WrongStatus(clock.status);
        if (msg.sender != p.aggregator) revert NotAggregator(msg.sender);
        clock.status = Status.Running;
        clock.round = 1;
        _open(clock, p, block.timestamp + p.joinWindow);
        s.clock = clock;
        s.reveals = Reveals(0, _seed(1));
        uint96 bond = p.bond;
        s.purse.bond = bond;
        emit Bonded(project, bond, clock.opensAt);

        _pull(p.token, bond);
    }

    /// @inheritdoc IMarketplace
    function settle(
        bytes32 project,
        uint32 round,
        address[] calldata revealers,
        bytes calldata points,
        bytes calldata exclusions,
        bytes calldata gram,
        bytes calldata proof,
        bytes32 modelCid
    ) external nonReentrant {
        Project storage s = _running(project);
        Clock memory clock = s.clock;
        _checkSettler(s.params, clock, round, s.reveals.count, exclusions.length);
        _checkReveals(s.reveals, round, revealers, points);
        if (exclusions.length != 0 && exclusions.length != revealers.length) {
            revert LengthMismatch(revealers.length, exclusions.length);
        }

        bytes memory included = _included(points, exclusions);
        uint256 n = included.length / POINT_BYTES;
        if (n < s.params.minUpdates) {
            _failRound(project, s, clock, 0, exclusions);
            return;
        }
        if (gram.length != 4 * n * (n + 1)) revert LengthMismatch(4 * n * (n + 1), gram.length);
        _checkDuplicates(included, n);
        _checkGram(project, round, s.params, included, gram, proof);

        bytes memory records = _pay(project, s, revealers, exclusions, gram, n);
        emit Settled(project, round, msg.sender, modelCid, records, gram);

        clock = s.clock;
        clock.failures = 0;
        if (++s.purse.settledRounds == s.params.rounds) _end(project, s, clock, Status.Finished);
        else _nextRound(s, clock);
    }

    // ----------------------------------------------------------------- anybody

    /// @inheritdoc IMarketplace
    function closeCommits(bytes32 project, uint32 round) external {
        Project storage s = _running(project);
        Clock memory clock = s.clock;
        if (round != clock.round) revert WrongRound(round, clock.round);
        if (block.timestamp < clock.opensAt) revert TooEarly(block.timestamp, clock.opensAt);
        if (clock.commits != 0) revert TooLate(block.timestamp, clock.commitEnd);
        uint256 count = s.active.length;
        uint256 commits = 0;
        for (uint256 i = 0; i < count; ++i) {
            if (_tickets[project][s.active[i]].round == round) ++commits;
        }
        if (block.timestamp < clock.commitEnd) {
            if (commits < count || count == 0) revert CommitsMissing(count - commits, clock.commitEnd);
            clock.commitEnd = uint40(block.timestamp);
            clock.revealEnd = clock.commitEnd + s.params.revealWindow;
            clock.settleEnd = clock.revealEnd + s.params.settleWindow;
        }
        clock.commits = uint16(commits);
        s.clock = clock;
        emit CommitsClosed(project, round, clock.commits);
    }

    /// @inheritdoc IMarketplace
    function expireRound(
        bytes32 project,
        uint32 round,
        address[] calldata revealers,
        bytes calldata points
    ) external {
        Project storage s = _running(project);
        Clock memory clock = s.clock;
        if (round != clock.round) revert WrongRound(round, clock.round);
        uint256 count = s.reveals.count;
        bool silent = count >= s.params.minUpdates;
        uint256 from = silent ? clock.settleEnd : clock.revealEnd;
        if (block.timestamp < from) revert TooEarly(block.timestamp, from);

        uint96 lost = 0;
        if (silent) {
            _checkReveals(s.reveals, round, revealers, points);
            uint96 bond = s.purse.bond;
            uint96 penalty = s.params.bondPenalty;
            uint96 each = (penalty < bond ? penalty : bond) / uint96(count);
            lost = each * uint96(count);
            s.purse.bond = bond - lost;
            for (uint256 i = 0; i < count; ++i) {
                _members[project][revealers[i]].credit += each;
            }
        }
        _failRound(project, s, clock, lost, "");
    }

    /// @inheritdoc IMarketplace
    function deactivate(bytes32 project, address trainer) external {
        Project storage s = _running(project);
        if (_members[project][trainer].membership != Membership.Active) revert NotTrainer(trainer);
        uint32 round = s.clock.round;
        uint32 last = _tickets[project][trainer].round;
        // The current round is still open to the trainer, so it is not missed yet.
        uint32 missed = last < round ? round - 1 - last : 0;
        uint16 patience = s.params.patience;
        if (missed <= patience) revert TooFewMissed(trainer, missed, patience);
        _dropActive(project, s, trainer);
    }

    /// @inheritdoc IMarketplace
    function withdraw(bytes32 project) external nonReentrant returns (uint96 amount) {
        Project storage s = _known(project);
        amount = _members[project][msg.sender].credit;
        if (amount == 0) revert NothingToWithdraw(msg.sender);
        _members[project][msg.sender].credit = 0;
        emit Withdrawn(project, msg.sender, amount);

        IERC20(s.params.token).safeTransfer(msg.sender, amount);
    }

    // ------------------------------------------------------------------- views

    /// @inheritdoc IMarketplace
    function paramsOf(bytes32 project) external view returns (Params memory) {
        return _known(project).params;
    }

    /// @inheritdoc IMarketplace
    function stateOf(bytes32 project) external view returns (State memory) {
        Project storage s = _known(project);
        Clock memory clock = s.clock;
        return State({
            status: clock.status,
            round: clock.round,
            settledRounds: s.purse.settledRounds,
            failures: clock.failures,
            opensAt: clock.opensAt,
            commitEnd: clock.commitEnd,
            revealEnd: clock.revealEnd,
            settleEnd: clock.settleEnd,
            active: clock.active,
            commits: clock.commits,
            reveals: s.reveals.count,
            revealHash: s.reveals.hash,
            sponsor: s.sponsor,
            escrow: s.purse.escrow,
            bond: s.purse.bond
        });
    }

    /// @inheritdoc IMarketplace
    function accountOf(bytes32 project, address account) external view returns (Account memory) {
        Member memory m = _members[project][account];
        Ticket memory ticket = _tickets[project][account];
        return Account({
            stake: m.stake,
            credit: m.credit,
            strikes: m.strikes,
            membership: m.membership,
            index: m.index,
            lastCommit: ticket.round,
            revealed: ticket.round != 0 && ticket.digest == 0,
            exitAt: _exitAt[project][account]
        });
    }

    /// @inheritdoc IMarketplace
    function trainers(bytes32 project) external view returns (address[] memory) {
        return _known(project).active;
    }

    /// @inheritdoc IMarketplace
    function commitDigest(
        bytes32 project,
        uint32 round,
        address trainer,
        bytes32[3] calldata point,
        bytes32 cid
    ) public pure returns (bytes28) {
        return bytes28(keccak256(abi.encode(project, round, trainer, point, cid)));
    }

    // ------------------------------------------------------------------ checks

    function _known(bytes32 project) private view returns (Project storage s) {
        s = _projects[project];
        if (s.clock.status == Status.None) revert UnknownProject(project);
    }

    function _running(bytes32 project) private view returns (Project storage s) {
        s = _projects[project];
        Status status = s.clock.status;
        if (status != Status.Running) _refuseStatus(status, project);
    }

    function _refuseStatus(Status status, bytes32 project) private pure {
        if (status == Status.None) revert UnknownProject(project);
        revert WrongStatus(status);
    }

    function _inCommitWindow(bytes32 project, uint32 round) private view {
        Clock memory clock = _projects[project].clock;
        if (clock.status != Status.Running) _refuseStatus(clock.status, project);
        if (round != clock.round) revert WrongRound(round, clock.round);
        if (block.timestamp < clock.opensAt) revert TooEarly(block.timestamp, clock.opensAt);
        if (block.timestamp >= clock.commitEnd) revert TooLate(block.timestamp, clock.commitEnd);
    }

    function _checkParams(Params calldata p) private view {
        if (p.token.code.length == 0) revert BadParam("token");
        if (p.rule.code.length == 0) revert BadParam("rule");
        if (p.verifier.code.length == 0) revert BadParam("verifier");
        if (p.aggregator == address(0)) revert BadParam("aggregator");
        if (p.slashSink == address(0) || p.slashSink == msg.sender || p.slashSink == p.aggregator) {
            revert BadParam("slashSink");
        }
        if (p.rounds == 0) revert BadParam("rounds");
        if (p.capacity == 0 || p.capacity > MAX_CAPACITY) revert BadParam("capacity");
        if (p.minUpdates == 0 || p.minUpdates > p.capacity) revert BadParam("minUpdates");
        if (p.maxFailures == 0) revert BadParam("maxFailures");
        if (p.stepBits > 40) revert BadParam("stepBits");
        if (p.dimension == 0) revert BadParam("dimension");
        if (p.clipNorm == 0) revert BadParam("clipNorm");
        if (p.stake > type(uint88).max) revert BadParam("stake");
        if (p.bond > type(uint88).max) revert BadParam("bond");
        if (p.bondPenalty > p.bond) revert BadParam("bondPenalty");
        if (p.joinWindow > MAX_WINDOW) revert BadParam("joinWindow");
        if (p.commitWindow == 0 || p.commitWindow > MAX_WINDOW) revert BadParam("commitWindow");
        if (p.revealWindow == 0 || p.revealWindow > MAX_WINDOW) revert BadParam("revealWindow");
        if (p.settleWindow == 0 || p.settleWindow > MAX_WINDOW) revert BadParam("settleWindow");
        if (p.exclusiveWindow > p.settleWindow) revert BadParam("exclusiveWindow");
        uint256 windows = uint256(p.commitWindow) + p.revealWindow + p.settleWindow;
        if (p.unbondingDelay < windows) revert BadParam("unbondingDelay");
        for (uint256 k = 0; k < 16; ++k) {
            if (_slashBps(p.slashBps, k) > 10_000) revert BadParam("slashBps");
        }
    }

    function _checkSettler(
        Params storage p,
        Clock memory clock,
        uint32 round,
        uint256 reveals,
        uint256 exclusions
    ) private view {
        if (round != clock.round) revert WrongRound(round, clock.round);
        bool complete = clock.commits != 0 && reveals == clock.commits;
        if (block.timestamp < clock.revealEnd && !complete) {
            revert TooEarly(block.timestamp, clock.revealEnd);
        }
        if (block.timestamp >= clock.settleEnd) revert TooLate(block.timestamp, clock.settleEnd);
        if (msg.sender == p.slashSink) revert SinkMayNotSettle(msg.sender);
        if (msg.sender != p.aggregator) {
            if (block.timestamp < clock.revealEnd + p.exclusiveWindow) revert NotAggregator(msg.sender);
            if (exclusions != 0) revert ExclusionNotAllowed(msg.sender);
        }
    }

    function _checkReveals(
        Reveals storage reveals,
        uint32 round,
        address[] calldata revealers,
        bytes calldata points
    ) private view {
        uint256 n = revealers.length;
        if (n != reveals.count) revert LengthMismatch(reveals.count, n);
        if (points.length != n * POINT_BYTES) revert LengthMismatch(n * POINT_BYTES, points.length);
        bytes31 hash = _seed(round);
        for (uint256 i = 0; i < n; ++i) {
            hash = bytes31(
                keccak256(
                    abi.encodePacked(hash, revealers[i], points[i * POINT_BYTES:(i + 1) * POINT_BYTES])
                )
            );
        }
        if (hash != reveals.hash) revert RevealListMismatch(reveals.hash, hash);
    }

    /// @dev The points of the updates that are not excluded.
    function _included(bytes calldata points, bytes calldata exclusions)
        private
        pure
        returns (bytes memory included)
    {
        included = points;
        if (exclusions.length == 0) return included;
        uint256 kept = 0;
        for (uint256 i = 0; i < exclusions.length; ++i) {
            if (exclusions[i] != 0) continue;
            if (kept != i) {
                for (uint256 word = 0; word < POINT_BYTES; word += 32) {
                    bytes32 value = bytes32(points[i * POINT_BYTES + word:]);
                    assembly ("memory-safe") {
                        mstore(add(add(included, 32), add(mul(kept, 96), word)), value)
                    }
                }
            }
            ++kept;
        }
        assembly ("memory-safe") {
            mstore(included, mul(kept, 96))
        }
    }

    /// @dev Points are compared by the low 32 bytes of x, so that a point and its negative are
    /// duplicates too.
    function _checkDuplicates(bytes memory points, uint256 n) private pure {
        for (uint256 i = 1; i < n; ++i) {
            bytes32 x;
            assembly ("memory-safe") {
                x := mload(add(add(points, 48), mul(i, 96)))
            }
            for (uint256 j = 0; j < i; ++j) {
                bytes32 other;
                assembly ("memory-safe") {
                    other := mload(add(add(points, 48), mul(j, 96)))
                }
                if (x == other) revert DuplicatePoint(j, i);
            }
        }
    }

    function _checkGram(
        bytes32 project,
        uint32 round,
        Params storage p,
        bytes memory points,
        bytes calldata gram,
        bytes calldata proof
    ) private view {
        if (!IGramVerifier(p.verifier).verify(project, round, p.aggregator, points, gram, proof)) {
            revert GramRejected();
        }
    }

    // ------------------------------------------------------------------- money

    /// @dev Scores the included updates, pays and slashes; returns a record a reveal.
    function _pay(
        bytes32 project,
        Project storage s,
        address[] calldata revealers,
        bytes calldata exclusions,
        bytes calldata gram,
        uint256 n
    ) private returns (bytes memory records) {
        Params storage p = s.params;
        uint96 reward = p.reward;
        (uint256[] memory weights, uint256[] memory shares, uint256 outliers) =
            IScoringRule(p.rule).score(p.ruleParams, n, gram, reward);
        if (weights.length != n || shares.length != n) revert RuleMisbehaved(p.rule);

        uint256 paid = 0;
        uint256 weight = 0;
        uint96 slashed = 0;
        records = new bytes(32 * revealers.length);
        uint256 k = 0;
        for (uint256 i = 0; i < revealers.length; ++i) {
            Member memory m = _members[project][revealers[i]];
            uint256 record;
            if (exclusions.length != 0 && exclusions[i] != 0) {
                record = uint256(m.strikes) << 224 | uint256(uint8(exclusions[i])) << 232;
            } else {
                if ((outliers >> k) & 1 != 0) {
                    if (weights[k] != 0 || shares[k] != 0) revert RuleMisbehaved(p.rule);
                    uint96 loss = _slash(p, m);
                    slashed += loss;
                    record = uint256(loss) << 96 | uint256(m.strikes) << 224 | uint256(1) << 240;
                    if (m.stake == 0 && m.membership == Membership.Active) {
                        record |= uint256(1) << 248;
                        m.membership = Membership.Inactive;
                        _removeActive(project, s, revealers[i], m.index);
                    }
                } else {
                    if (shares[k] > reward || weights[k] > ONE) revert RuleMisbehaved(p.rule);
                    paid += shares[k];
                    weight += weights[k];
                    if (m.strikes != 0) --m.strikes;
                    m.credit += uint96(shares[k]);
                    record = shares[k] | weights[k] << 192 | uint256(m.strikes) << 224;
                }
                // Removing another trainer may have moved this one.
                m.index = _members[project][revealers[i]].index;
                _members[project][revealers[i]] = m;
                ++k;
            }
            assembly ("memory-safe") {
                mstore(add(add(records, 32), mul(i, 32)), record)
            }
        }
        if (paid > reward || weight != ONE) revert RuleMisbehaved(p.rule);
        uint96 fee = p.fee;
        s.purse.escrow -= uint96(paid) + fee;
        if (fee != 0) _members[project][msg.sender].credit += fee;
        if (slashed != 0) _members[project][p.slashSink].credit += slashed;
    }

    function _slash(Params storage p, Member memory m) private view returns (uint96 loss) {
        if (m.strikes != type(uint8).max) ++m.strikes;
        uint256 entry = m.strikes > 16 ? 15 : m.strikes - 1;
        loss = uint96(uint256(p.stake) * _slashBps(p.slashBps, entry) / 10_000);
        if (loss > m.stake) loss = m.stake;
        m.stake -= loss;
    }

    function _slashBps(bytes32 schedule, uint256 k) private pure returns (uint256) {
        return (uint256(schedule) >> (240 - 16 * k)) & 0xffff;
    }

    function _releaseStake(bytes32 project, address trainer) private {
        Member storage m = _members[project][trainer];
        uint96 stake = m.stake;
        m.stake = 0;
        m.credit += stake;
        m.membership = Membership.None;
        delete _exitAt[project][trainer];
        emit Left(project, trainer, stake);
    }

    /// @dev Takes exactly `amount` from the caller.
    function _pull(address token, uint256 amount) private {
        if (amount == 0) return;
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = IERC20(token).balanceOf(address(this)) - before;
        if (received != amount) revert TokenTookFee(amount, received);
    }

    // ------------------------------------------------------------------ rounds

    function _open(Clock memory clock, Params storage p, uint256 opensAt) private view {
        clock.opensAt = uint40(opensAt);
        clock.commitEnd = clock.opensAt + p.commitWindow;
        clock.revealEnd = clock.commitEnd + p.revealWindow;
        clock.settleEnd = clock.revealEnd + p.settleWindow;
        clock.commits = 0;
    }

    /// @dev What a round's running hash starts from; not zero, so that the first reveal does not pay
    /// for a fresh slot.
    function _seed(uint32 round) private pure returns (bytes31) {
        return bytes31(uint248(round));
    }

    function _nextRound(Project storage s, Clock memory clock) private {
        ++clock.round;
        _open(clock, s.params, block.timestamp);
        s.clock = clock;
        s.reveals = Reveals(0, _seed(clock.round));
    }

    function _failRound(
        bytes32 project,
        Project storage s,
        Clock memory clock,
        uint96 lost,
        bytes memory exclusions
    ) private {
        emit RoundFailed(project, clock.round, lost, exclusions);
        if (++clock.failures == s.params.maxFailures) _end(project, s, clock, Status.Halted);
        else _nextRound(s, clock);
    }

    function _end(bytes32 project, Project storage s, Clock memory clock, Status status) private {
        clock.status = status;
        s.clock = clock;
        uint96 bond = s.purse.bond;
        s.purse.bond = 0;
        _members[project][s.params.aggregator].credit += bond;
        emit ProjectEnded(project, status);
    }

    function _dropActive(bytes32 project, Project storage s, address trainer) private {
        Member storage m = _members[project][trainer];
        m.membership = Membership.Inactive;
        _removeActive(project, s, trainer, m.index);
    }

    /// @dev Fills the gap with the last active trainer.
    function _removeActive(bytes32 project, Project storage s, address trainer, uint16 index) private {
        address last = s.active[s.active.length - 1];
        s.active[index] = last;
        s.active.pop();
        _members[project][last].index = index;
        delete _tickets[project][trainer];
        --s.clock.active;
        emit Deactivated(project, trainer);
    }
}
